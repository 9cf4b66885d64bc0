"""What people import of the pipelines: the names, how light they are, that all are described."""

import importlib
from pathlib import Path

import c3d_pipelines
import pytest
from support.public_names import loaded_by, undescribed_in

PACKAGE = Path(c3d_pipelines.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))


def test_the_list_is_sorted_and_without_repeats():
    assert c3d_pipelines.__all__ == sorted(set(c3d_pipelines.__all__))


@pytest.mark.parametrize("name", sorted(c3d_pipelines._HOME_OF))
def test_every_name_can_be_imported_and_is_its_homes(name):
    home = importlib.import_module(f"c3d_pipelines.{c3d_pipelines._HOME_OF[name]}")
    assert getattr(c3d_pipelines, name) is getattr(home, name)
    assert name in dir(c3d_pipelines)
    assert name in c3d_pipelines.__all__


def test_a_dataset_is_opened_by_the_package_alone(tmp_path):
    assert (
        c3d_pipelines.dataset.open is importlib.import_module("c3d_pipelines.dataset.reader").open
    )


def test_the_commands_load_nothing_heavy():
    heavy = {"kfp", "pyarrow", "cv2", "av", "grpc", "numpy", "yaml", "kubernetes"}
    assert not heavy & loaded_by("import c3d_pipelines.cli")


def test_reading_a_dataset_needs_no_kubeflow():
    loaded = loaded_by("import c3d_pipelines; c3d_pipelines.dataset.open")
    assert "pyarrow" in loaded
    assert not {"kfp", "kubernetes", "tensorflow", "c3d_export"} & loaded


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_module_and_everything_public_in_it_is_described(path):
    assert undescribed_in(path) == []
