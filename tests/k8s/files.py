"""Checks of the files: YAML style, kustomizations, the README's commands, and Dockerfiles.

These checks take the texts of the files by their paths from the repository's root.
"""

from __future__ import annotations

import functools
import json
import posixpath
import re
import shlex
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

from yamllint import linter
from yamllint.config import YamlLintConfig

from k8s.render import ROOT, Object, parse

Texts = dict[str, str]

_YAMLLINT = Path(__file__).with_name("yamllint.yaml")
_FILES = (
    *("model_export/Dockerfile", "pipelines/Dockerfile", ".dockerignore", "constraints.txt"),
    *("README.md", "CHANGELOG.md"),
)
_SUFFIXES = (".yaml", ".md", ".config", ".json", ".sh", ".env")
README = "k8s/README.md"
# Values for a Helm chart of the cluster, as the first lines of the file explain.
_NOT_RESOURCES = ("k8s/components/autoscaling-hpa/prometheus-adapter-values.yaml",)
# Kinds that one folder alone holds: removing anything else must not remove data, and applying it
# again must not make a model.
_HELD_BY = {
    "Namespace": "k8s/setup/",
    "PersistentVolumeClaim": "k8s/setup/",
    "Job": "k8s/jobs/",
}
_RESOURCE_LISTS = ("resources", "components", "crds", "configurations", "transformers")
_COMMAND = re.compile(
    r"(?:kubectl (?:apply|replace|diff|delete|kustomize)|kustomize build)\b([^\n`]*)"
)
_PATH = re.compile(r"(?:-k|--kustomize|kustomize|build)?[ =](k8s/[\w./-]+)")
_TABLE = re.compile(r"^\| (overlay|component) \|.*\n((?:\|.*\n)+)", re.MULTILINE)
_ROW = re.compile(r"^\| `([a-z0-9-]+)` \|(.*\|.*)\|$", re.MULTILINE)
_PART = re.compile(r"^\.\./(\.\./components/)?[a-z0-9-]+$")
_COPY = re.compile(r"^COPY (?!--from)(?:--\S+ )*(.+) \S+$", re.MULTILINE)
_ENTRYPOINT = re.compile(r"^(?:ENTRYPOINT|CMD) (\[.*\])$", re.MULTILINE)
# The full name: podman and containerd do not complete a short one as Docker does.
_IMAGE = re.compile(r"docker\.io/library/python:3\.[0-9]+\.[0-9]+-slim-[a-z]+")


def read_texts() -> Texts:
    """Return a new dictionary with the texts of the files."""
    return dict(_texts())


@functools.cache
def _texts() -> Texts:
    paths = [path for path in sorted((ROOT / "k8s").rglob("*")) if path.suffix in _SUFFIXES]
    paths += [ROOT / path for path in _FILES]
    return {p.relative_to(ROOT).as_posix(): p.read_text() for p in paths if p.is_file()}


def headings(texts: Texts) -> set[str]:
    """Return the links to all headings of Markdown files, such as `k8s/README.md#sizing`."""
    return {
        f"{path}#{re.sub(r'[^a-z0-9_ -]', '', heading.lower()).strip().replace(' ', '-')}"
        for path, text in texts.items()
        if path.endswith(".md")
        for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    }


def check_yaml_style(texts: Texts) -> Iterator[str]:
    """yamllint reports nothing: duplicate keys, indentation, line length, truthy values."""
    config = YamlLintConfig(file=str(_YAMLLINT))
    for path, text in texts.items():
        for problem in linter.run(text, config) if path.endswith(".yaml") else ():
            yield f"{path}:{problem.line}: {problem.desc} ({problem.rule})"


def check_kustomizations(texts: Texts) -> Iterator[str]:
    """Every file that a kustomization names exists, and every file is used and has one object."""
    used = set()
    for path, text in texts.items():
        if path.endswith("kustomization.yaml"):
            for target in _targets(parse(text)[0]):
                full = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
                used.add(full)
                if full not in texts and f"{full}/kustomization.yaml" not in texts:
                    yield f"{path}: {target} does not exist"
        elif path.endswith(".yaml") and len(parse(text)) > 1:
            yield f"{path}: more than one object in a file"
    for path in texts:
        is_resource = path.startswith("k8s/") and not path.endswith((".md", "kustomization.yaml"))
        is_other = "/tests/" in path or path in _NOT_RESOURCES
        if is_resource and path not in used and not is_other:
            yield f"{path}: no kustomization uses it"


def check_setup(texts: Texts) -> Iterator[str]:
    """Namespaces and claims are in `k8s/setup` alone, Jobs in `k8s/jobs`; nothing includes them."""
    folders = sorted(set(_HELD_BY.values()))
    for path, text in texts.items():
        if not path.startswith("k8s/") or not path.endswith(".yaml"):
            continue
        for obj in parse(text):
            folder = _HELD_BY.get(obj.get("kind", ""), "")
            if not path.startswith(folder):
                yield f"{path}: a {obj['kind']} outside {folder}"
            if path.endswith("kustomization.yaml"):
                for target in _targets(obj):
                    full = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
                    for folder in folders:
                        if f"{full}/".startswith(folder) and not path.startswith(folder):
                            yield f"{path}: includes {full}"


def _targets(kustomization: Object) -> Iterator[str]:
    """Yield the files and folders that a kustomization names."""
    for key in _RESOURCE_LISTS:
        yield from kustomization.get(key) or ()
    for key in ("patches", "replacements"):
        yield from (item["path"] for item in kustomization.get(key) or () if "path" in item)
    for key in ("configMapGenerator", "secretGenerator"):
        for generator in kustomization.get(key) or ():
            for kind in ("files", "envs"):
                yield from (item.rpartition("=")[2] for item in generator.get(kind) or ())
            if "env" in generator:
                yield generator["env"]


def check_readme(texts: Texts) -> Iterator[str]:
    """Commands in the documents name kustomizations; the README's tables name all of them."""
    if README not in texts:
        yield f"{README}: does not exist"
        return
    for document in (path for path in texts if path.endswith(".md")):
        for arguments in _COMMAND.findall(texts[document]):
            for path in _PATH.findall(arguments):
                is_file = path.endswith((".yaml", ".md"))
                if not is_file and f"{path.rstrip('/')}/kustomization.yaml" not in texts:
                    yield f"{document}: {path} is not a kustomization"
    rows = {
        (f"{kind}s", row[1]): row[2]
        for kind, table in _TABLE.findall(texts[README])
        for row in _ROW.finditer(table)
    }
    for path, text in texts.items():
        folder, _, name = posixpath.dirname(path).removeprefix("k8s/").partition("/")
        is_kustomization = path.endswith("/kustomization.yaml")
        if not is_kustomization or folder not in ("components", "overlays"):
            continue
        if (folder, name) not in rows:
            yield f"{README}: no row for {folder[:-1]} {name}"
        elif folder == "overlays":
            parts = {t.rpartition("/")[2] for t in _targets(parse(text)[0]) if _PART.search(t)}
            listed = set(re.findall(r"`([a-z0-9-]+)`", rows[folder, name].rpartition("|")[2]))
            if listed != parts:
                yield f"{README}: overlay {name} has {sorted(parts)}, not {sorted(listed)}"


def check_dockerfiles(texts: Texts) -> Iterator[str]:
    """Dockerfiles copy existing files, run our commands as a numbered user, and pin versions."""
    commands = {e.name for e in entry_points(group="console_scripts") if "c3d" in e.module}
    ignored = texts[".dockerignore"].splitlines()
    for path, text in texts.items():
        if not path.endswith("Dockerfile"):
            continue
        for sources in _COPY.findall(text):
            for source in shlex.split(sources):
                if not (ROOT / source).exists():
                    yield f"{path}: COPY {source}: does not exist"
                if _is_ignored(source, ignored):
                    yield f"{path}: COPY {source}: .dockerignore excludes it"
        users = re.findall(r"^USER (.+)$", text, re.MULTILINE)
        user = users[-1].strip() if users else "missing"
        if not re.fullmatch(r"[1-9][0-9]*(:[1-9][0-9]*)?", user):
            yield f"{path}: USER is {user}, not a number above 0"
        for entrypoint in _ENTRYPOINT.findall(text):
            command = json.loads(entrypoint)[0]
            if not command.startswith("-") and command not in commands:
                yield f"{path}: {command} is not a command of our packages"
        stages = re.findall(r"^FROM \S+ AS (\S+)$", text, re.MULTILINE)
        for image in re.findall(r"^FROM (\S+)", text, re.MULTILINE):
            if image not in stages and not _IMAGE.fullmatch(image):
                yield f"{path}: FROM {image} is not docker.io/library/python:X.Y.Z-slim-DEBIAN"
        for command in re.split(r"&&|^[A-Z]+ ", text.replace("\\\n", " "), flags=re.MULTILINE):
            # Wheels that an earlier stage built.
            if re.search(r"\bpip\b.* install ", command) and "--no-index" not in command:
                needed = ["--constraint"]
                # Sources are built with tools that pip installs apart.
                needed += ["--build-constraint"] if "/client" in command else []
                for option in needed:
                    if not re.search(rf" {option} (\S+/)?constraints\.txt ", command):
                        yield f"{path}: installs without {option} constraints.txt"


def _is_ignored(source: str, lines: list[str]) -> bool:
    """Return whether .dockerignore excludes a path; its last pattern that matches decides."""
    ignored = False
    for line in lines:
        pattern = line.strip().rstrip("/").removeprefix("!").removeprefix("/")
        if not pattern or line.startswith("#"):
            continue
        if pattern == "*" or source == pattern or source.startswith(f"{pattern}/"):
            ignored = not line.startswith("!")
    return ignored
