"""The public names of the pipelines, what importing them loads, and their docstrings."""

import importlib
from pathlib import Path

import c3d_pipelines
from support.public_names import loaded_by, undescribed_in

PACKAGE = Path(c3d_pipelines.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))


def test_list_is_sorted_and_without_repeats():
    assert c3d_pipelines.__all__ == sorted(set(c3d_pipelines.__all__))


def test_every_name_can_be_imported_from_the_package():
    assert {*c3d_pipelines._MODULE_OF, "dataset"} == set(c3d_pipelines.__all__)
    for name, module_name in c3d_pipelines._MODULE_OF.items():
        module = importlib.import_module(f"c3d_pipelines.{module_name}")
        assert getattr(c3d_pipelines, name) is getattr(module, name), name
        assert name in dir(c3d_pipelines), name


def test_dataset_is_opened_through_the_package(tmp_path):
    assert (
        c3d_pipelines.dataset.open is importlib.import_module("c3d_pipelines.dataset.reader").open
    )


def test_commands_load_nothing_heavy():
    heavy = {"kfp", "pyarrow", "cv2", "av", "grpc", "numpy", "yaml", "kubernetes"}
    assert not heavy & loaded_by("import c3d_pipelines.cli")


def test_reading_a_dataset_needs_no_kubeflow():
    loaded = loaded_by("import c3d_pipelines; c3d_pipelines.dataset.open")
    assert "pyarrow" in loaded
    assert not {"kfp", "kubernetes", "tensorflow", "c3d_export"} & loaded


def test_every_module_and_its_public_names_have_docstrings():
    missing = {path: undescribed_in(path) for path in SOURCES}
    assert {path: names for path, names in missing.items() if names} == {}
