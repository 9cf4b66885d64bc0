"""The errors: their hierarchy, builtin base classes and attributes, and former import paths."""

import importlib
import inspect
import pickle
import re

import pytest
from c3d_client.core import errors
from c3d_export.errors import WeightsError
from c3d_pipelines.errors import StorageError

CLASSES = {
    name: kind
    for name, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, errors.C3DError)
}


def documented_parents():
    """Return each error's parent, read from the tree in the module's docstring."""
    parents, path = {}, []
    for line in errors.__doc__.splitlines():
        match = re.match(r"^    ([│├└ ]*)(\w+)", line)
        if not match:
            continue
        depth = 0 if not match[1] else 1 + (len(match[1]) - 2) // 4
        path = [*path[:depth], match[2]]
        parents[match[2]] = path[-2] if depth else None
    return parents


def test_tree_in_the_docstring_is_the_class_hierarchy():
    real = {
        name: next((b.__name__ for b in kind.__bases__ if issubclass(b, errors.C3DError)), None)
        for name, kind in CLASSES.items()
    }
    assert documented_parents() == real


@pytest.mark.parametrize(
    ("name", "builtin"),
    [
        ("UsageError", ValueError),
        ("ServingUnavailable", ConnectionError),
        ("ServingTimeout", TimeoutError),
        ("ModelNotFound", LookupError),
        ("OutputError", OSError),
    ],
)
def test_errors_are_subclasses_of_the_fitting_builtin(name, builtin):
    assert issubclass(CLASSES[name], builtin)


@pytest.mark.parametrize(
    "name",
    [
        "VideoError",
        "VideoDecodeError",
        "VideoTooLarge",
        "VideoTooShortError",
        "VideoUnreadableError",
    ],
)
def test_video_error_names_its_video(tmp_path, name):
    error = CLASSES[name](tmp_path / "video.mp4", "has no pictures")
    assert error.source == str(tmp_path / "video.mp4")
    assert error.reason == "has no pictures"
    assert str(error) == f"{tmp_path / 'video.mp4'}: has no pictures"


@pytest.mark.parametrize(
    "name", sorted(n for n, kind in CLASSES.items() if issubclass(kind, errors.ServingError))
)
def test_serving_error_names_its_target_and_code(name):
    error = CLASSES[name]("localhost:8500", "refused", code="ABORTED")
    assert (error.target, error.reason, error.code) == ("localhost:8500", "refused", "ABORTED")
    assert str(error) == "localhost:8500: refused"


def test_output_error_names_its_path(tmp_path):
    error = errors.OutputError(tmp_path / "video.npz", "cannot be written")
    assert error.path == str(tmp_path / "video.npz")
    assert str(error) == f"{tmp_path / 'video.npz'}: cannot be written"


@pytest.mark.parametrize(
    "error",
    [
        errors.VideoTooShortError("a.mp4", "has 3 frames"),
        errors.ServingTimeout("host:1", "no answer", code="DEADLINE_EXCEEDED"),
        errors.OutputError("out", "is full"),
        StorageError("s3://out", "is full"),
        WeightsError("w.h5: damaged"),
    ],
)
def test_errors_can_be_pickled(error):
    copied = pickle.loads(pickle.dumps(error))
    assert type(copied) is type(error)
    assert str(copied) == str(error)
    assert vars(copied) == vars(error)


# The errors that c3d_client.errors contained before they were moved to the other distributions.
MOVED = {
    "c3d_export.errors": ("AssetError", "ExportError", "VerificationError", "WeightsError"),
    "c3d_pipelines.errors": (
        *("BatchError", "ManifestError", "RunError", "ShardError", "StorageError"),
    ),
}


def test_moved_errors_can_be_imported_from_the_former_path_with_a_warning():
    from c3d_client import errors as former_path

    for module, names in MOVED.items():
        for name in names:
            with pytest.warns(DeprecationWarning, match=f"import {name} from {module}") as warned:
                error = getattr(former_path, name)
            assert error is getattr(importlib.import_module(module), name)
            assert issubclass(error, errors.C3DError)
            assert warned[0].filename == __file__


def test_unknown_error_at_the_former_path_is_an_attribute_error():
    from c3d_client import errors as former_path

    with pytest.raises(AttributeError, match="has no attribute 'NoSuchError'"):
        _ = former_path.NoSuchError


def test_other_errors_at_the_former_path_are_the_same_classes():
    from c3d_client import errors as former_path

    for name, error in CLASSES.items():
        assert getattr(former_path, name) is error, name
