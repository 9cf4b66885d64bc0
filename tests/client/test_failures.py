"""failures.csv: what a run could not do, for people and for the next run."""

import csv

import pytest
from c3d_client.core.errors import OutputError
from c3d_client.job import Failure, as_fingerprint, read_failures, write_failures

DAMAGED = Failure("a/b.mp4", "x/a/b.mp4", "VideoDecodeError", 'is damaged, at "0.5" s', '{"s": 1}')
GONE = Failure("ü, c.mp4", "ü, c.mp4", "ServingTimeout", "late\nby far", "")


def test_failures_come_back_as_they_were_written(tmp_path):
    write_failures(tmp_path, {f.video: f for f in (GONE, DAMAGED)})
    assert read_failures(tmp_path) == {f.video: f for f in (GONE, DAMAGED)}


def test_the_file_is_sorted_and_has_a_header_for_spreadsheets(tmp_path):
    write_failures(tmp_path, {f.video: f for f in (GONE, DAMAGED)})
    with (tmp_path / "failures.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["video", "uri", "error_type", "error", "fingerprint"]
    assert [row[0] for row in rows[1:]] == ["a/b.mp4", "ü, c.mp4"]


def test_without_failures_there_is_no_file(tmp_path):
    write_failures(tmp_path, {DAMAGED.video: DAMAGED})
    write_failures(tmp_path, {})
    assert list(tmp_path.iterdir()) == []
    assert read_failures(tmp_path) == {}
    write_failures(tmp_path, {})


@pytest.mark.parametrize(
    "content", ["video,other\na,b\n", "video\n1,2,3,4,5,6,7\n", "\x00", "\xff"]
)
def test_another_file_of_that_name_is_refused(tmp_path, content):
    (tmp_path / "failures.csv").write_bytes(content.encode("latin-1"))
    with pytest.raises(OutputError, match=r"failures.csv: is not a run's list"):
        read_failures(tmp_path)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(OutputError, match="cannot be written"):
        write_failures(tmp_path / "missing", {DAMAGED.video: DAMAGED})


def test_fingerprints_are_equal_whatever_the_order_of_their_keys():
    assert as_fingerprint({"size": 1, "mtime_ns": 2}) == as_fingerprint({"mtime_ns": 2, "size": 1})
    assert as_fingerprint({}) == ""
