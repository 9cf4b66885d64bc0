"""Arguments of a wrong type: one line that says what to give."""

import io
from pathlib import Path

import numpy as np
import pytest
from c3d_client import (
    C3DClient,
    Source,
    UsageError,
    atomic_file,
    convert,
    decode_frames,
    expand,
    iter_clips,
    read_features,
    write_features,
)
from c3d_client.core.arguments import kind_of
from c3d_client.core.uri import Uri
from c3d_client.job import ExtractJob
from support.sample_features import sample_features

CLIPS = np.zeros((2, 16, 112, 112, 3), np.uint8)
NO_PATH = (
    (CLIPS, "an array of shape [2, 16, 112, 112, 3]; give"),
    (b"\x00\x00\x00 ftyp", "bytes; give a path or URL, a str or os.PathLike (os.fsdecode"),
    (None, "None; give"),
    (["a.mp4"], "a list; give"),
    (7, "an int; give"),
)


def error_of(call):
    with pytest.raises(UsageError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 200
    return message


@pytest.fixture
def c3d(fake_serving):
    with C3DClient(fake_serving().target) as client:
        yield client


def test_what_is_no_path_is_named(c3d, tmp_path, video):
    calls = {
        "Uri.of": Uri.of,
        "decode_frames": lambda value: next(decode_frames(value)),
        "expand": lambda value: expand(["a.mp4", value]),
        "read_features": read_features,
        "write_features": lambda value: write_features(value, sample_features(2), format="npz"),
        "convert": lambda value: convert([value], tmp_path, to="npz"),
        "ExtractJob": lambda value: ExtractJob(c3d, value),
        "atomic_file": lambda value: atomic_file(value).__enter__(),
    }
    for name, call in calls.items():
        for value, expected in NO_PATH:
            message = error_of(lambda call=call, value=value: call(value))
            assert expected in message, (name, message)
            assert "ftyp" not in message, name
    assert list(tmp_path.iterdir()) == [video]


def test_what_is_no_video_of_several_is_named(c3d, video):
    # What one video may be given as is in test_frames_input.py.
    for value, expected in (
        (CLIPS, "source is an array of shape [2, 16, 112, 112, 3] of uint8; give one video"),
        (None, "source is None; give"),
        (["a.mp4"], "source is a list of paths; give several videos to extract_many"),
        (7, "source is an int; give"),
    ):
        message = error_of(lambda value=value: list(c3d.extract_many([video, value])))
        assert expected in message


def test_one_path_where_a_list_is_expected_is_named(c3d, tmp_path):
    job = ExtractJob(c3d, tmp_path)
    calls = {
        "inputs is one path, 'videos'; give a list of paths, patterns or URLs": expand,
        "sources is one path, 'videos'; give a list of paths or URLs": c3d.extract_many,
        "sources is one path, 'videos'; give a list of what expand() returns": (
            lambda value: list(job.run(value))
        ),
        "inputs is one path, 'videos'; give a list of files or folders of features": (
            lambda value: convert(value, tmp_path, to="npz")
        ),
        "frames is one path, 'videos'; give a list of frames, such as decode_frames(path)": (
            lambda value: next(iter_clips(value))
        ),
    }
    for expected, call in calls.items():
        for value in ("videos", Path("videos")):
            assert expected in error_of(lambda call=call, value=value: call(value)), expected
        for value, kind in (
            (b"videos", "bytes"),
            (None, "None"),
            (3, "an int"),
            (CLIPS, "an array of shape [2, 16, 112, 112, 3]"),
            (io.BytesIO(b"videos"), "a BytesIO"),
        ):
            message = error_of(lambda call=call, value=value: call(value))
            assert f" is {kind}; give a list of" in message, expected


def test_names_of_videos_are_no_sources_of_a_job(c3d, tmp_path, video):
    job = ExtractJob(c3d, str(tmp_path / "out"))
    message = error_of(lambda: list(job.run(["a.mp4"])))
    assert message == "sources[0] is a str; give a list of what expand() returns"
    rows = list(job.run([Source(str(video), "a.mp4")]))
    assert [row.path for row in rows] == [tmp_path / "out" / "a.mp4.npz"]


def test_any_iterable_of_paths_is_taken(c3d, video):
    for sources in ((video,), iter([str(video)]), np.array([str(video)]), {video: 1}):
        assert len(expand(sources)) == 1 if not hasattr(sources, "__next__") else True
        [outcome] = c3d.extract_many(sources)
        assert outcome.error is None


def test_closed_client_is_an_error_that_says_what_to_do(fake_serving, video):
    server = fake_serving()
    with C3DClient(server.target) as c3d:
        c3d.extract(video)
    calls = {
        "extract": lambda: c3d.extract(video),
        "classify": lambda: c3d.classify(video),
        "extract_many": lambda: c3d.extract_many([video]),
        "model_info": c3d.model_info,
        "versions": c3d.versions,
        "provenance": c3d.provenance,
    }
    for name, call in calls.items():
        message = error_of(call)
        assert message == (
            f"the client of {server.target} is closed; make another C3DClient, "
            "or call it before its with block ends"
        ), name
    c3d.close()  # a second time is no error


def test_kinds_are_named_as_a_reader_knows_them():
    for value, expected in (
        (None, "None"),
        (b"a", "bytes"),
        (bytearray(b"a"), "bytes"),
        (np.zeros((3, 4)), "an array of shape [3, 4]"),
        (np.float32(1), "an array of shape []"),
        ([1], "a list"),
        (1, "an int"),
        ("a", "a str"),
    ):
        assert kind_of(value) == expected
