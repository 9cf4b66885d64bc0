"""What is in the images, and what a change of one source file changes."""

from __future__ import annotations

import json
import re
import shutil

import pytest
from images.conftest import ROOT

pytestmark = pytest.mark.images

# Runs in the image. Prints a list of what should not be there.
_UNWANTED = r"""
import glob, importlib.util, json, os, re, shutil, sys, sysconfig
found = []
for name in ("cc", "c++", "gcc", "g++", "clang", "ld", "as", "make"):
    found += [f"compiler {name}"] if shutil.which(name) else []
found += ["pip in the environment"] if importlib.util.find_spec("pip") else []
headers = re.compile(r".*\.(h|hh|hpp|inc|pxd|pyx|c|cc|cpp|a|lib)$|libclang.*")
site = sysconfig.get_path("purelib")
for folder, folders, files in os.walk("/opt"):
    found += [f"{folder}/{name}" for name in files if headers.match(name)]
    for name in files:
        path = os.path.join(folder, name)
        if name.endswith(".py") and folder.startswith(site):
            code = importlib.util.cache_from_source(path)
            # Bit 0: a hash of the source in place of its time; bit 1: it is compared.
            if not os.path.exists(code) or open(code, "rb").read(8)[4] != 1:
                found.append(f"{path}: no bytecode, or bytecode of another kind")
        elif name.endswith(".pyc") and not os.path.exists(
            re.sub(r"__pycache__/(.*)\.cpython-\d+\.pyc", r"\1.py", path)
        ):
            found.append(f"{path}: bytecode without a source")
for module in ("argparse", "asyncio.base_events", "json", "logging", "typing"):
    source = importlib.util.find_spec(module).origin
    if not os.path.exists(importlib.util.cache_from_source(source)):
        found.append(f"{source}: no bytecode")
# Of pip, hatchling, Keras, matplotlib and the stages of the build.
root, work = os.path.expanduser("~root"), os.getcwd()  # the WORKDIR
found += glob.glob("/tmp/.*") + glob.glob("/tmp/*") + glob.glob(work + "/*") + glob.glob("/wheels*")
found += glob.glob("/src*") + glob.glob("/opt/[!c]*") + glob.glob(root + "/.[!bp]*")
print(json.dumps(found))
"""


def layers(engine, image: str) -> list[str]:
    return engine("image", "inspect", "--format", "{{json .RootFS.Layers}}", image).stdout


def layer_sizes(engine, image: str) -> list[tuple[str, int]]:
    """Return the instruction and the bytes of each layer, the newest first."""
    text = engine("history", "--no-trunc", "--format", "{{.Size}}\t{{.CreatedBy}}", image).stdout
    lines = [line.split("\t", 1) for line in text.splitlines()]
    return [(instruction, read_size(size)) for size, instruction in lines]


def read_size(text: str) -> int:
    """Return the bytes of a size such as `2.26 GB`."""
    match = re.fullmatch(r"([\d.]+) ?(B|kB|MB|GB)", text)
    assert match is not None, text
    return round(float(match[1]) * {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9}[match[2]])


def test_images_have_no_headers_compilers_static_libraries_or_stray_files(engine, images):
    for image in images:
        # Without a tmpfs on /tmp, to see the image's own files there.
        done = engine(
            *("run", "--rm", "--network", "none", "--user", "0", "--entrypoint", "python"),
            *("--env", "PYTHONDONTWRITEBYTECODE=1", image, "-c", _UNWANTED),
        )
        assert json.loads(done.stdout) == [], image


def test_requirements_of_all_installed_packages_are_met(engine, images):
    for image in images:
        # The base's pip: the environment has none.
        engine.run(image, "--python", "/opt/c3d/bin/python", "check", entrypoint="pip")


def test_tensorflow_in_the_image_uses_onednn(engine, export_image):
    code = "import os; print(os.environ['TF_ENABLE_ONEDNN_OPTS'])"
    assert engine.run(export_image, "-c", code, entrypoint="python").stdout.strip() == "1"


def test_images_are_as_small_as_documented(engine, export_image, worker_image):
    # 2.52 and 0.91 GB on a base of 0.25 GB, as .ci/base-image makes it.
    for image, limit in ((export_image, 2.6e9), (worker_image, 1e9)):
        size = int(engine("image", "inspect", "--format", "{{.Size}}", image).stdout)
        assert size < limit, image


def test_check_inside_the_build_leaves_no_files(engine, images):
    for image in images:
        (check,) = [
            size for instruction, size in layer_sizes(engine, image) if "mktemp" in instruction
        ]
        # Headers of folders alone.
        assert check < 10_000, image


def test_change_of_a_source_file_changes_one_small_layer(engine, images, tmp_path):
    for name in ("client", "model_export", "pipelines"):
        ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignore)
    for name in ("constraints.txt", ".dockerignore"):
        shutil.copy2(ROOT / name, tmp_path / name)
    source = tmp_path / "pipelines" / "c3d_pipelines" / "text.py"
    source.write_text(source.read_text() + "\n# changed\n")
    tag = "localhost/c3d-images:changed"
    for image, file in zip(images, ("model_export", "pipelines"), strict=True):
        before = json.loads(layers(engine, image))
        engine("build", "--file", f"{file}/Dockerfile", "--tag", tag, ".", cwd=tmp_path)
        try:
            after = json.loads(layers(engine, tag))
            # The packages, and the layer of the check, which has no files.
            assert before[:-2] == after[:-2], image
            (own,) = [
                size
                for instruction, size in layer_sizes(engine, tag)
                if "COPY" in instruction and size > 100_000
            ]
            assert own < 6e6, image
        finally:
            engine("rmi", "--force", tag, check=False)
