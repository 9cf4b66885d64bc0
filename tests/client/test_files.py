"""Atomic files and folders, and chunks of rows."""

import os
import stat
import threading

import pytest
from c3d_client.core.files import atomic_file, atomic_folder
from support.sample_features import full_disk, names_in


def test_file_gets_its_name_when_the_block_ends(tmp_path):
    path = tmp_path / "result.bin"
    with atomic_file(path) as file:
        file.write(b"half")
        assert not path.exists()
        file.write(b" and half")
    assert path.read_bytes() == b"half and half"
    assert names_in(tmp_path) == ["result.bin"]


def test_existing_file_stays_until_the_block_ends(tmp_path):
    path = tmp_path / "result.bin"
    path.write_bytes(b"old")
    with atomic_file(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("error", [OSError, ValueError, KeyboardInterrupt])
def test_error_keeps_the_existing_file_and_removes_the_unfinished_one(tmp_path, error):
    path = tmp_path / "result.bin"
    path.write_bytes(b"old")

    def write():
        with atomic_file(path) as file:
            file.write(b"half")
            raise error

    with pytest.raises(error):
        write()
    assert path.read_bytes() == b"old"
    assert names_in(tmp_path) == ["result.bin"]


def test_final_name_may_be_decided_at_the_end(tmp_path):
    names = []
    with atomic_file(
        tmp_path / "x", prefix=".c3d-mine~", final=lambda: tmp_path / names[0]
    ) as file:
        file.write(b"x")
        [unfinished] = names_in(tmp_path)
        assert unfinished.startswith(".c3d-mine~")
        names.append("y")
    assert names_in(tmp_path) == ["y"]


def test_only_a_file_that_must_survive_a_power_cut_is_synced(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)
    for is_synced in (True, False):
        with atomic_file(tmp_path / "x", synced=is_synced) as file:
            file.write(b"x")
        assert len(synced) == 1


def test_text_is_utf8_and_newlines_are_not_converted(tmp_path):
    with atomic_file(tmp_path / "notes.txt", text=True) as file:
        file.write("zwölf\r\neins\n")
    assert (tmp_path / "notes.txt").read_bytes() == "zwölf\r\neins\n".encode()


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_file_has_the_permissions_of_the_umask(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        with atomic_file(tmp_path / "result.bin") as file:
            file.write(b"x")
        assert os.umask(umask) == umask  # the umask itself is unchanged
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "result.bin").stat().st_mode) == mode


def test_folder_of_the_same_name_is_an_error_without_an_unfinished_file(tmp_path):
    (tmp_path / "result.bin").mkdir()

    def write():
        with atomic_file(tmp_path / "result.bin") as file:
            file.write(b"x")

    with pytest.raises(OSError, match="directory"):
        write()
    assert names_in(tmp_path) == ["result.bin"]


def test_missing_parent_folder_is_an_error(tmp_path):
    for atomic in (atomic_file, atomic_folder):
        with pytest.raises(FileNotFoundError), atomic(tmp_path / "absent" / "result"):
            pass


@pytest.mark.parametrize("name", ["x" * 255, "é" * 127, "影" * 85, "-x", " ", "%s", "a\nb"])
def test_every_valid_file_name_can_be_written(tmp_path, name):
    with atomic_file(tmp_path / name) as file:
        file.write(b"x")
    with atomic_folder(tmp_path / f"{name[:-3]}of") as folder:
        (folder / "part").touch()
    assert sorted([name, f"{name[:-3]}of"]) == names_in(tmp_path)


def test_name_that_is_too_long_is_an_error_without_an_unfinished_file(tmp_path):
    for atomic in (atomic_file, atomic_folder):
        with pytest.raises(OSError, match="name too long"), atomic(tmp_path / ("x" * 256)):
            pass
    assert names_in(tmp_path) == []


def test_bytes_can_be_read_within_the_block(tmp_path):
    with atomic_file(tmp_path / "result.bin") as file:
        file.write(b"one two")
        file.seek(4)
        assert file.read() == b"two"


def test_full_disk_is_an_error_and_keeps_the_existing_file(tmp_path):
    (tmp_path / "result.bin").write_bytes(b"old")

    def write():
        with atomic_file(tmp_path / "result.bin") as file:
            file.write(bytes(2000))  # less than one write: the error comes when the file is closed

    with full_disk(1000), pytest.raises(OSError, match="too large"):
        write()
    assert (tmp_path / "result.bin").read_bytes() == b"old"
    assert names_in(tmp_path) == ["result.bin"]


def test_threads_do_not_change_the_umask(tmp_path):
    before = os.umask(0o077)

    def write(n):
        for _ in range(50):
            with atomic_file(tmp_path / f"{n}") as file:
                file.write(b"x")

    threads = [threading.Thread(target=write, args=[n]) for n in range(4)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        after = os.umask(before)
    assert after == 0o077
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}


class TestFolder:
    def test_gets_its_name_with_its_whole_content(self, tmp_path):
        with atomic_folder(tmp_path / "result") as folder:
            (folder / "one").write_bytes(b"1")
            assert not (tmp_path / "result").exists()
            (folder / "two").write_bytes(b"2")
        assert names_in(tmp_path) == ["result"]
        assert names_in(tmp_path / "result") == ["one", "two"]

    def test_replaces_an_existing_folder_when_the_block_ends(self, tmp_path):
        (tmp_path / "result").mkdir()
        (tmp_path / "result" / "old").touch()
        with atomic_folder(tmp_path / "result") as folder:
            (folder / "new").touch()
            assert names_in(tmp_path / "result") == ["old"]
        assert names_in(tmp_path / "result") == ["new"]
        assert names_in(tmp_path) == ["result"]

    @pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
    def test_error_keeps_the_existing_folder_and_removes_the_unfinished_one(self, tmp_path, error):
        (tmp_path / "result").mkdir()
        (tmp_path / "result" / "old").touch()

        def write():
            with atomic_folder(tmp_path / "result") as folder:
                (folder / "new").touch()
                raise error

        with pytest.raises(error):
            write()
        assert names_in(tmp_path) == ["result"]
        assert names_in(tmp_path / "result") == ["old"]

    def test_failed_rename_restores_the_existing_folder(self, tmp_path, monkeypatch):
        (tmp_path / "result").mkdir()
        (tmp_path / "result" / "old").touch()
        rename, calls = os.rename, []

        def second_fails(old, new):
            calls.append(new)
            if len(calls) == 2:
                raise OSError("disk removed")
            rename(old, new)

        def write():
            with atomic_folder(tmp_path / "result") as folder:
                (folder / "new").touch()
                monkeypatch.setattr(os, "rename", second_fails)

        with pytest.raises(OSError, match="disk removed"):
            write()
        assert names_in(tmp_path) == ["result"]
        assert names_in(tmp_path / "result") == ["old"]

    def test_file_of_the_same_name_is_an_error_and_stays(self, tmp_path):
        (tmp_path / "result").write_bytes(b"a file")
        with pytest.raises(NotADirectoryError), atomic_folder(tmp_path / "result"):
            pass
        assert names_in(tmp_path) == ["result"]

    @pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o755), (0o077, 0o700)])
    def test_has_the_permissions_of_the_umask(self, tmp_path, umask, mode):
        before = os.umask(umask)
        try:
            with atomic_folder(tmp_path / "result"):
                pass
        finally:
            os.umask(before)
        assert stat.S_IMODE((tmp_path / "result").stat().st_mode) == mode
