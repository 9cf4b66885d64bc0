"""What people import: the names, how light they are to load, and that all are described."""

import ast
import importlib
from pathlib import Path

import c3d_client
import pytest
from support.public_names import loaded_by, undescribed_in

PACKAGE = Path(c3d_client.__file__).parent
SOURCES = sorted(p for p in PACKAGE.rglob("*.py") if p.name != "wire_pb2.py")


def test_the_list_is_sorted_and_without_repeats():
    assert c3d_client.__all__ == sorted(set(c3d_client.__all__))


@pytest.mark.parametrize("name", c3d_client.__all__)
def test_every_name_can_be_imported_and_is_its_homes(name):
    home = importlib.import_module(f"c3d_client.{c3d_client._MODULE_OF[name]}")
    value = getattr(c3d_client, name)
    assert value is getattr(home, name)
    # A constant has no module; the parts of a package are its own affair.
    module = getattr(value, "__module__", home.__name__)
    assert module == home.__name__ or module.startswith(f"{home.__name__}.")
    assert name in dir(c3d_client)


def test_the_list_the_homes_and_what_type_checkers_see_agree():
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    seen = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for line in node.body:
                seen[line.module.removeprefix("c3d_client.")] = tuple(a.name for a in line.names)
    assert seen == c3d_client._MODULES
    assert sorted(c3d_client._MODULE_OF) == c3d_client.__all__


def test_every_public_error_of_videos_serving_and_outputs_is_on_the_list():
    from c3d_client.core import errors

    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(
            kind, (errors.VideoError, errors.ServingError, errors.OutputError, errors.UsageError)
        ):
            assert kind.__name__ in c3d_client.__all__


def test_another_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'c3d_client' has no attribute 'C4DClient'"):
        _ = c3d_client.C4DClient


def test_importing_the_package_loads_nothing_heavy():
    heavy = {"tensorflow", "keras", "grpc", "av", "cv2", "numpy", "google"}
    assert not heavy & loaded_by("import c3d_client")


def test_the_contract_and_the_errors_load_nothing_heavy():
    loaded = loaded_by("import c3d_client.core.contract, c3d_client.core.errors")
    assert not {"numpy", "grpc", "av"} & loaded


def test_the_client_loads_neither_tensorflow_nor_the_other_rooms():
    loaded = loaded_by(
        "import c3d_client\nfor name in c3d_client.__all__: getattr(c3d_client, name)"
    )
    assert {"grpc", "av", "numpy"} <= loaded
    assert (
        not {*("tensorflow", "tensorflow_serving", "keras", "kfp", "c3d_export", "c3d_pipelines")}
        & loaded
    )


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_module_and_everything_public_in_it_is_described(path):
    assert undescribed_in(path) == []
