"""The errors: the drawing is the hierarchy, and each is also what a Python person expects."""

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


def drawn_parents():
    """The docstring's tree: each error's parent, read from its indentation."""
    parents, path = {}, []
    for line in errors.__doc__.splitlines():
        found = re.match(r"^    ([│├└ ]*)(\w+)", line)
        if not found:
            continue
        depth = 0 if not found[1] else 1 + (len(found[1]) - 2) // 4
        path = [*path[:depth], found[2]]
        parents[found[2]] = path[-2] if depth else None
    return parents


def test_the_drawing_at_the_top_of_the_file_is_the_hierarchy():
    real = {
        name: next((b.__name__ for b in kind.__bases__ if issubclass(b, errors.C3DError)), None)
        for name, kind in CLASSES.items()
    }
    assert drawn_parents() == real


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
def test_errors_are_also_the_builtin_that_fits(name, builtin):
    assert issubclass(CLASSES[name], builtin)


@pytest.mark.parametrize(
    "name", ["VideoError", "VideoDecodeError", "VideoTooShortError", "VideoUnreadableError"]
)
def test_a_video_error_names_its_video(tmp_path, name):
    error = CLASSES[name](tmp_path / "film.mp4", "has no pictures")
    assert error.source == str(tmp_path / "film.mp4")
    assert error.reason == "has no pictures"
    assert str(error) == f"{tmp_path / 'film.mp4'}: has no pictures"


@pytest.mark.parametrize(
    "name", sorted(n for n, kind in CLASSES.items() if issubclass(kind, errors.ServingError))
)
def test_a_serving_error_names_its_target_and_code(name):
    error = CLASSES[name]("localhost:8500", "said no", code="ABORTED")
    assert (error.target, error.reason, error.code) == ("localhost:8500", "said no", "ABORTED")
    assert str(error) == "localhost:8500: said no"


def test_an_output_error_names_its_path(tmp_path):
    error = errors.OutputError(tmp_path / "film.npz", "cannot be written")
    assert error.path == str(tmp_path / "film.npz")
    assert str(error) == f"{tmp_path / 'film.npz'}: cannot be written"


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
def test_errors_cross_to_another_process_whole(error):
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)
