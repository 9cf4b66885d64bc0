"""The files themselves: YAML as people wrote it, kustomizations, the README, Dockerfiles.

A check of these takes texts by path from the repository's root, so that one can be changed.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import yaml
from yamllint import linter
from yamllint.config import YamlLintConfig

from k8s.bundle import ROOT, Object, parse

Texts = dict[str, str]

_LINT = Path(__file__).with_name("yamllint.yaml")
_FOLDERS = ("k8s",)
_FILES = ("model_export/Dockerfile", "pipelines/Dockerfile", ".dockerignore", "constraints.txt")
_SUFFIXES = (".yaml", ".md", ".config", ".json", ".sh", ".env")
_APPLY = re.compile(r"(?:kubectl (?:apply|diff|delete|kustomize)|kustomize build)\b([^\n`]*)")
_COPY = re.compile(r"^COPY (?!--from)(?:--\S+ )*(.+) \S+$", re.MULTILINE)
_WORDS = re.compile(r"^(?:ENTRYPOINT|CMD) (\[.*\])$", re.MULTILINE)
_ROW = re.compile(r"^\| `([a-z0-9-]+)` \|(.*\|.*)\|$", re.MULTILINE)
_IMAGE = re.compile(r"python:3\.[0-9]+\.[0-9]+-slim-[a-z]+")
_PART = re.compile(r"^\.\./(\.\./components/)?[a-z0-9-]+$")
# For something of the cluster's, as its first lines say.
_NOT_RESOURCES = ("k8s/components/autoscaling-hpa/prometheus-adapter-values.yaml",)
_LISTS = ("resources", "components", "crds", "configurations", "transformers")


def read() -> Texts:
    """The texts of the tree as it is."""
    paths = [p for f in _FOLDERS for p in sorted((ROOT / f).rglob("*")) if p.suffix in _SUFFIXES]
    paths += [ROOT / f for f in _FILES]
    return {p.relative_to(ROOT).as_posix(): p.read_text() for p in paths if p.is_file()}


def anchors(texts: Texts) -> frozenset[str]:
    """The documents' headings as links to them: `k8s/README.md#sizing`."""
    return frozenset(
        f"{path}#{re.sub(r'[^a-z0-9_ -]', '', heading.lower()).strip().replace(' ', '-')}"
        for path, text in texts.items()
        if path.endswith(".md")
        for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    )


def yaml_style(texts: Texts) -> list[str]:
    """yamllint, strict: duplicate keys, indentation, line length, document ends."""
    config = YamlLintConfig(file=str(_LINT))
    return [
        f"{path}:{problem.line}: {problem.desc} ({problem.rule})"
        for path, text in texts.items()
        if path.endswith(".yaml")
        for problem in linter.run(text, config)
    ]


def kustomizations(texts: Texts) -> list[str]:
    """Every file is used by a kustomization and every one used is there; one object a file."""
    found, used = [], set()
    for path, text in texts.items():
        if not path.endswith("kustomization.yaml"):
            if path.endswith(".yaml") and len(parse(text)) > 1:
                found.append(f"{path}: more than one object in a file")
            continue
        for called in _named(parse(text)[0]):
            target = _join(path, called)
            used.add(target)
            is_folder = f"{target}/kustomization.yaml" in texts
            if target not in texts and not is_folder:
                found.append(f"{path}: {called} is not there")
    for path in texts:
        is_part = path.startswith("k8s/") and not path.endswith((".md", "kustomization.yaml"))
        is_other = "/tests/" in path or path in _NOT_RESOURCES
        if is_part and path not in used and not is_other:
            found.append(f"{path}: no kustomization uses it")
    return found


def readme(texts: Texts) -> list[str]:
    """The README's `kubectl ... -k PATH` name kustomizations that are there, and all are named."""
    text = texts.get("k8s/README.md")
    if text is None:
        return ["k8s/README.md: is not there"]
    found = []
    for document in (path for path in texts if path.endswith(".md")):
        for arguments in _APPLY.findall(texts[document]):
            for path in re.findall(
                r"(?:-k|--kustomize|kustomize|build)?[ =](k8s/[\w./-]+)", arguments
            ):
                is_file = path.endswith((".yaml", ".md"))
                if not is_file and f"{path.rstrip('/')}/kustomization.yaml" not in texts:
                    found.append(f"{document}: {path} is no kustomization")
    tables = re.findall(r"^\| (overlay|component) \|.*\n((?:\|.*\n)+)", text, re.MULTILINE)
    rows = {(f"{kind}s", m[1]): m[2] for kind, table in tables for m in _ROW.finditer(table)}
    for path, content in texts.items():
        folder, _, name = (
            path.removeprefix("k8s/").removesuffix("/kustomization.yaml").partition("/")
        )
        if not path.endswith("/kustomization.yaml") or folder not in ("components", "overlays"):
            continue
        if (folder, name) not in rows:
            found.append(f"k8s/README.md: no row for {folder[:-1]} {name}")
        elif folder == "overlays":
            brought = {n.rpartition("/")[2] for n in _named(parse(content)[0]) if _PART.search(n)}
            said = set(re.findall(r"`([a-z0-9-]+)`", rows[folder, name].rpartition("|")[2]))
            if said != brought:
                found.append(
                    f"k8s/README.md: overlay {name} brings {sorted(brought)}, not {sorted(said)}"
                )
    return found


def dockerfiles(texts: Texts, commands: frozenset[str]) -> list[str]:
    """Every file that a Dockerfile copies is there and not ignored; its command is a package's."""
    found = []
    ignored = [
        line.strip().rstrip("/")
        for line in texts.get(".dockerignore", "").splitlines()
        if line.strip() and not line.startswith("#")
    ]
    for path, text in texts.items():
        if not path.endswith("Dockerfile"):
            continue
        for sources in _COPY.findall(text):
            for source in shlex.split(sources):
                if not (ROOT / source).exists():
                    found.append(f"{path}: COPY {source}: is not there")
                if _is_ignored(source, ignored):
                    found.append(f"{path}: COPY {source}: .dockerignore leaves it out")
        users = re.findall(r"^USER (.+)$", text, re.MULTILINE)
        if not users or not re.fullmatch(r"[1-9][0-9]*(:[1-9][0-9]*)?", users[-1].strip()):
            found.append(
                f"{path}: USER is {users[-1] if users else 'missing'}, not a number above 0"
            )
        for words in _WORDS.findall(text):
            command = yaml.safe_load(words)[0]
            if not command.startswith("-") and command not in commands:
                found.append(f"{path}: {command} is no command of our packages")
        for image in re.findall(r"^FROM (\S+)", text, re.MULTILINE):
            if not _IMAGE.fullmatch(image):
                found.append(f"{path}: FROM {image} is not python:X.Y.Z-slim-DEBIAN")
        if "--constraint constraints.txt" not in text:
            found.append(f"{path}: installs without constraints.txt")
    return found


def _named(kustomization: Object) -> Iterator[str]:
    for key in _LISTS:
        yield from kustomization.get(key) or ()
    for patch in kustomization.get("patches") or ():
        if "path" in patch:
            yield patch["path"]
    for replacement in kustomization.get("replacements") or ():
        if "path" in replacement:
            yield replacement["path"]
    for key in ("configMapGenerator", "secretGenerator"):
        for generator in kustomization.get(key) or ():
            for kind in ("files", "envs"):
                for name in generator.get(kind) or ():
                    yield name.rpartition("=")[2]
            if "env" in generator:
                yield generator["env"]


def _join(path: str, called: str) -> str:
    parts = path.split("/")[:-1]
    for part in called.rstrip("/").split("/"):
        if part == "..":
            parts.pop()
        elif part != ".":
            parts.append(part)
    return "/".join(parts)


def _is_ignored(source: str, ignored: list[str]) -> bool:
    state = False
    for pattern in ignored:
        name = pattern.removeprefix("!").removeprefix("/")
        hit = name == "*" or source == name or source.startswith(f"{name}/")
        if hit:
            state = not pattern.startswith("!")
    return state
