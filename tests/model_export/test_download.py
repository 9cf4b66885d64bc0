"""A file comes whole and right, or not at all; what came once is not fetched again."""

import fcntl
import json
import resource
import shutil

import pytest
from c3d_client.core.errors import UsageError
from c3d_export.download import Patience, download
from c3d_export.errors import AssetError
from c3d_export.fingerprint import Fingerprint
from support.http_faults import (
    CONTENT,
    KNOWN,
    answers,
    drops_after,
    ignores_ranges,
    in_chunks,
    stalls_after,
    without_length,
)

UNKNOWN = Fingerprint()


def left(target):
    return sorted(path.name for path in target.parent.iterdir())


def interrupted(server, get, count=100_000):
    """A run that got so many bytes and then gave up."""
    server.faults = [drops_after(count)]
    with pytest.raises(AssetError, match="run it again to go on"):
        get(patience=Patience(attempts=1))
    server.requests.clear()


class TestWhole:
    def test_it_is_byte_for_byte_what_the_server_has(self, get, target):
        assert get() is True
        assert target.read_bytes() == CONTENT
        assert left(target) == ["weights.h5"]

    def test_a_right_file_is_not_fetched_again(self, server, get, target):
        target.write_bytes(CONTENT)
        assert get() is False
        assert server.requests == []

    def test_a_wrong_file_is_named_and_left(self, server, get, target):
        target.write_bytes(b"other")
        with pytest.raises(AssetError, match=r"weights\.h5: it has 5 bytes.*it was left"):
            get()
        assert target.read_bytes() == b"other"
        assert server.requests == []

    def test_a_wrong_file_is_overwritten_on_request_by_a_right_one(self, get, target):
        target.write_bytes(b"other")
        assert get(overwrite=True) is True
        assert target.read_bytes() == CONTENT

    def test_a_wrong_file_stays_where_no_right_one_can_be_had(self, server, get, target):
        target.write_bytes(b"other")
        server.content = b"x" * len(CONTENT)
        with pytest.raises(AssetError, match="md5"):
            get(overwrite=True)
        assert target.read_bytes() == b"other"
        assert left(target) == ["weights.h5"]

    def test_the_first_digits_of_a_sha256_are_enough(self, get, refused):
        assert "sha256" in refused(Fingerprint(sha256="00000000"))
        assert get(Fingerprint(sha256=KNOWN.sha256[:8])) is True

    def test_progress_rises_to_the_whole(self, get):
        seen = []
        get(progress=lambda done, total: seen.append((done, total)))
        assert seen == sorted(seen)
        assert seen[-1] == (len(CONTENT), len(CONTENT))

    @pytest.mark.parametrize("known", [KNOWN, UNKNOWN])
    def test_a_body_in_chunks_needs_no_length(self, server, get, target, known):
        server.faults = [in_chunks]
        assert get(known) is True
        assert target.read_bytes() == CONTENT

    def test_without_any_length_the_checksum_decides(self, server, get, refused):
        server.faults = [without_length(count=1000), without_length()]
        assert get() is True
        assert len(server.requests) == 2

    def test_a_server_that_does_not_hang_up_has_still_sent_it_all(self, server, get):
        server.faults = [stalls_after(len(CONTENT))]
        assert get(patience=Patience(timeout_s=0.2, attempts=1)) is True


class TestResumed:
    @pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
    def test_after_dropped_connections_no_byte_comes_twice(self, server, get, target, reset):
        server.faults = [drops_after(100_000, reset=reset)] * 2
        get()
        assert target.read_bytes() == CONTENT
        assert server.ranges[0] == ""
        if not reset:  # what a reset connection had still under way is lost
            assert server.ranges == ["", "bytes=100000-", "bytes=200000-"]
            assert server.sent == len(CONTENT)
        assert [headers.get("If-Range") for _, headers in server.requests[1:]] == ['"one"'] * 2

    def test_the_next_run_goes_on_where_this_one_gave_up(self, server, get, target):
        interrupted(server, get)
        assert left(target) == ["weights.h5.part", "weights.h5.part.json"]
        get()
        assert target.read_bytes() == CONTENT
        assert server.ranges == ["bytes=100000-"]
        assert left(target) == ["weights.h5"]

    def test_a_date_serves_where_there_is_no_strong_tag(self, server, get):
        server.etag, server.modified = 'W/"weak"', "Mon, 01 Jan 2018 00:00:00 GMT"
        server.faults = [drops_after(100_000)]
        get()
        assert server.requests[1][1]["If-Range"] == server.modified
        assert server.sent == len(CONTENT)

    def test_without_tag_and_date_it_begins_again(self, server, get, target):
        server.etag = ""
        server.faults = [drops_after(100_000)] * 3
        get()
        assert target.read_bytes() == CONTENT
        assert server.ranges == [""] * 4

    def test_nor_is_anything_kept_then(self, server, refused, target):
        server.etag = ""
        server.always = drops_after(100_000)
        assert "nothing of it was kept" in refused()
        assert left(target) == []

    @pytest.mark.parametrize("fault", [ignores_ranges, in_chunks])
    def test_a_server_that_does_not_resume_sends_it_all(self, server, get, target, fault):
        server.faults = [drops_after(100_000), fault]
        get()
        assert target.read_bytes() == CONTENT

    def test_a_file_that_changed_meanwhile_is_not_mixed(self, server, get, target):
        old, server.content = server.content, b"\x00" * 200_000
        interrupted(server, lambda **options: get(UNKNOWN, **options))
        server.content, server.etag = old, '"two"'
        get()
        assert target.read_bytes() == CONTENT
        assert server.ranges == ["bytes=100000-"]

    def test_a_length_that_changed_under_the_same_tag_is_not_believed(self, server, get, target):
        old, server.content = server.content, b"\x00" * 200_000
        interrupted(server, lambda **options: get(UNKNOWN, **options))
        server.content = old
        get()
        assert target.read_bytes() == CONTENT
        assert server.ranges == ["bytes=100000-", ""]

    def test_a_part_of_another_address_is_not_used(self, server, get, target):
        interrupted(server, get)
        get(url=f"{server.url}/mirror")
        assert target.read_bytes() == CONTENT
        assert server.ranges == [""]

    @pytest.mark.parametrize("origin", [None, b"", b"[]", b"{}", b'{"url": 3}', b"\xff"])
    def test_a_part_of_unknown_origin_is_not_used(self, server, get, target, origin):
        target.with_name("weights.h5.part").write_bytes(b"stranger")
        if origin is not None:
            target.with_name("weights.h5.part.json").write_bytes(origin)
        get()
        assert target.read_bytes() == CONTENT
        assert server.ranges == [""]

    def test_a_part_that_is_whole_is_only_checked(self, server, get, target):
        interrupted(server, get)
        target.with_name("weights.h5.part").write_bytes(CONTENT)
        get()
        assert target.read_bytes() == CONTENT
        assert server.requests == []

    def test_a_part_longer_than_the_file_is_given_up(self, server, get, target):
        interrupted(server, get)
        target.with_name("weights.h5.part").write_bytes(CONTENT + b"more")
        get()
        assert target.read_bytes() == CONTENT
        assert server.ranges == ["bytes=300004-", ""]

    @pytest.mark.parametrize("said", ["bytes 5-299999/300000", "bytes 1-2", "nonsense", ""])
    def test_another_part_than_asked_for_is_not_taken(self, server, get, target, said):
        part = answers(206, {"Content-Range": said}, CONTENT[5:])
        server.faults = [drops_after(100_000), part]
        get()
        assert target.read_bytes() == CONTENT


class TestDisk:
    def test_a_disk_that_takes_no_more_is_said_and_gone_on_from(self, server, get, target):
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
        try:
            with pytest.raises(AssetError, match=r"cannot be written or read \(File too large"):
                get()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert left(target) == ["weights.h5.part", "weights.h5.part.json"]
        get()
        assert target.read_bytes() == CONTENT
        assert server.ranges == ["", "bytes=200000-"]

    def test_too_little_room_is_said_before_the_file_comes(self, refused, target, monkeypatch):
        little = shutil.disk_usage(target.parent)._replace(free=1000)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: little)
        assert "needs 300,000 bytes, and 1,000 are free" in refused()
        assert left(target) == []

    @pytest.mark.parametrize("folder", ["none", "file"])
    def test_a_folder_that_is_none(self, server, target, folder):
        target.with_name("file").write_bytes(b"")
        with pytest.raises(AssetError, match=r"cannot be written or read \((No|Not) "):
            download(server.url, target.parent / folder / "x")

    @pytest.mark.parametrize("overwrite", [False, True])
    def test_a_folder_of_that_name_is_left(self, get, target, overwrite):
        target.mkdir()
        with pytest.raises(AssetError, match="no file"):
            get(overwrite=overwrite)
        assert target.is_dir()

    def test_two_processes_do_not_write_into_one_file(self, server, get, target):
        interrupted(server, get)
        with target.with_name("weights.h5.part").open("ab") as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            with pytest.raises(AssetError, match="another process is fetching it"):
                get()
        assert get() is True

    def test_an_interrupt_keeps_what_came(self, server, get, target):
        def interrupt(done, total):
            if done > 200_000:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            get(progress=interrupt)
        assert not target.exists()
        kept = target.with_name("weights.h5.part").stat().st_size
        assert json.loads(target.with_name("weights.h5.part.json").read_text()) == {
            "url": server.url,
            "version": '"one"',
            "total": len(CONTENT),
        }
        get()
        assert server.ranges == ["", f"bytes={kept}-"]


@pytest.mark.parametrize(
    "wrong", [{"timeout_s": 0}, {"attempts": 0}, {"backoff_s": -1}, {"timeout_s": float("nan")}]
)
def test_patience_must_be_some(wrong):
    with pytest.raises(UsageError, match="cannot be"):
        Patience(**wrong)
