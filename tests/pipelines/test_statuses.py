"""The status and the message of a video that ended in an error."""

import inspect

from c3d_client.core import errors
from c3d_client.core.errors import C3DError
from c3d_pipelines import errors as pipeline_errors
from c3d_pipelines.inputs.manifest import ManifestRow
from c3d_pipelines.shards.schema import OK, STATUSES, message_of, status_of
from c3d_pipelines.shards.worker import do_shard
from support.shard_runs import job, read_videos, row


def test_each_error_has_its_status():
    for error, status in [
        (errors.VideoTooShortError("a", "has 3 frames"), "too_short"),
        (errors.VideoDecodeError("a", "is damaged"), "corrupt"),
        (errors.VideoUnreadableError("a", "no such file"), "unreadable"),
        (errors.VideoTooLarge("a", "needs 9 MiB"), "failed"),  # another pod may have the memory
        (errors.UsageError("a: cannot be opened without a library"), "unreadable"),
        (errors.ServingError("host", "its answer cannot be used"), "failed"),
        (errors.ServingTimeout("host", "no answer"), "failed"),
        (errors.RequestRejected("host", "no"), "failed"),
        (errors.OutputError("/tmp", "is full"), "failed"),
    ]:
        assert status_of(error) == status, (error, status)


def test_every_error_has_a_known_status_other_than_ok():
    named_errors = (
        *(errors.VideoError, errors.ServingError, errors.OutputError),
        pipeline_errors.StorageError,
    )
    kinds = [
        *inspect.getmembers(errors, inspect.isclass),
        *inspect.getmembers(pipeline_errors, inspect.isclass),
    ]
    for _, kind in kinds:
        if issubclass(kind, C3DError):
            error = kind("a", "b") if issubclass(kind, named_errors) else kind("a")
            assert status_of(error) in set(STATUSES) - {OK}


def test_message_is_one_line_of_at_most_500_characters():
    assert message_of(errors.UsageError("a\n  b\tc ")) == "a b c"
    assert message_of(errors.UsageError("x" * 500)) == "x" * 500
    long = message_of(errors.UsageError("x" * 501))
    assert len(long) == 500
    assert long.endswith("x…")
    assert (
        message_of(errors.UsageError("a\0b\x1b[31m\ud800\u202e")) == r"a\x00b\x1b[31m\ud800\u202e"
    )
    assert len(message_of(errors.UsageError("\0" * 10**6))) == 500


def test_message_with_a_name_that_is_not_utf8_can_be_encoded():
    assert message_of(errors.UsageError("caf\udce9.mp4: no")).encode() == rb"caf\xe9.mp4: no"


def test_unreadable_and_corrupt_videos_have_different_statuses(started, tmp_path, carphone):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "text.mp4").write_text("no pictures" * 99)
    (tmp_path / "cut.mp4").write_bytes(carphone.read_bytes()[:20_000])
    expected = {
        "empty.mp4": "corrupt",
        "folder.mp4": "unreadable",
        "text.mp4": "corrupt",
        "cut.mp4": "corrupt",
        "missing.mp4": "unreadable",
        "text.mp4/below.mp4": "unreadable",
    }
    rows = [row(tmp_path / name, name) for name in expected]
    rows.append(ManifestRow("web", "http://user:secret@127.0.0.1:9/a.mp4?token=hidden"))
    report = do_shard(job(tmp_path / "out", started().target), rows, 0)
    rows_read = read_videos(tmp_path / "out", report)
    assert [item["status"] for item in rows_read] == [*expected.values(), "unreadable"]
    assert {item["error_type"] for item in rows_read} == {
        "VideoDecodeError",
        "VideoUnreadableError",
    }
    for item in rows_read:
        assert item["error_message"]
        assert "secret" not in str(item)
        assert "hidden" not in str(item)
        assert item["feature"] is None
