"""Public names: where they are, what importing them loads, and that all have a docstring."""

import ast
import importlib
from pathlib import Path

import c3d_client
import pytest
from support.public_names import loaded_by, undescribed_in

PACKAGE = Path(c3d_client.__file__).parent
SOURCES = sorted(p for p in PACKAGE.rglob("*.py") if p.name != "wire_pb2.py")


def test_all_is_sorted_and_without_duplicates():
    assert c3d_client.__all__ == sorted(set(c3d_client.__all__))


@pytest.mark.parametrize("name", c3d_client.__all__)
def test_name_is_imported_from_its_module(name):
    home = importlib.import_module(f"c3d_client.{c3d_client._MODULE_OF[name]}")
    value = getattr(c3d_client, name)
    assert value is getattr(home, name)
    # A constant has no module; a package may define the name in any of its modules.
    module = getattr(value, "__module__", home.__name__)
    assert module == home.__name__ or module.startswith(f"{home.__name__}.")
    assert name in dir(c3d_client)


def test_lazy_imports_equal_those_for_type_checkers():
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    imported = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for line in node.body:
                imported[line.module.removeprefix("c3d_client.")] = tuple(
                    a.name for a in line.names
                )
    assert imported == c3d_client._MODULES
    assert sorted(c3d_client._MODULE_OF) == c3d_client.__all__


def test_all_contains_every_error_of_videos_serving_and_outputs():
    from c3d_client.core import errors

    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(
            kind, (errors.VideoError, errors.ServingError, errors.OutputError, errors.UsageError)
        ):
            assert kind.__name__ in c3d_client.__all__


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'c3d_client' has no attribute 'C4DClient'"):
        _ = c3d_client.C4DClient


LARGE = {"tensorflow", "keras", "grpc", "av", "cv2", "numpy", "google"}


def test_importing_the_package_loads_no_large_library():
    assert not LARGE & loaded_by("import c3d_client")


def test_importing_core_loads_no_large_library():
    modules = [path.stem for path in sorted((PACKAGE / "core").glob("[a-z]*.py"))]
    assert {"contract", "errors", "files", "provenance", "uri"} <= set(modules)
    assert not LARGE & loaded_by("\n".join(f"import c3d_client.core.{name}" for name in modules))


def test_client_loads_neither_tensorflow_nor_the_other_distributions():
    loaded = loaded_by(
        "import c3d_client\nfor name in c3d_client.__all__: getattr(c3d_client, name)"
    )
    assert {"grpc", "av", "numpy"} <= loaded
    assert (
        not {*("tensorflow", "tensorflow_serving", "keras", "kfp", "c3d_export", "c3d_pipelines")}
        & loaded
    )


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_module_and_public_name_has_a_docstring(path):
    assert undescribed_in(path) == []


# The import paths outside the package itself that earlier releases documented.
FORMER_PATHS = {
    "errors": {"C3DError", "Cancelled", "UsageError", "VideoDecodeError", "ServingError"},
    "contract": {"CLIP_FRAMES", "CLIP_SHAPE", "SIGNATURES", "MODEL_CARD", "DEFAULT_TARGET"},
    "outputs": {"FORMATS", "convert", "read_features", "read_npz", "write_features", "write_npz"},
    "video": {"Frame", "decode_frames", "decoder_versions"},
    "sources": {"VIDEO_SUFFIXES", "Source", "display", "expand", "fingerprint", "open_source"},
}


def test_former_import_paths_still_have_their_names():
    for module, names in FORMER_PATHS.items():
        imported = importlib.import_module(f"c3d_client.{module}")
        for name in names:
            assert hasattr(imported, name), f"{module}.{name}"


def test_names_at_former_paths_are_the_public_ones():
    for module in FORMER_PATHS:
        imported = importlib.import_module(f"c3d_client.{module}")
        for name in c3d_client.__all__:
            if hasattr(imported, name):
                assert getattr(imported, name) is getattr(c3d_client, name), f"{module}.{name}"


def test_redacting_is_still_called_display_in_sources():
    from c3d_client import sources

    assert sources.display("https://me:secret@host/a.mp4?t=1") == "https://***@host/a.mp4?t=***"
