"""Files and folders that appear whole or not at all."""

import os
import stat
import threading

import pytest
from c3d_client.core.files import atomic_file, atomic_folder
from support.sample_features import full_disk, names_in


def test_the_name_is_taken_when_the_block_ends(tmp_path):
    path = tmp_path / "result.bin"
    with atomic_file(path) as file:
        file.write(b"half")
        assert not path.exists()
        file.write(b" and half")
    assert path.read_bytes() == b"half and half"
    assert names_in(tmp_path) == ["result.bin"]


def test_what_was_there_stays_until_then(tmp_path):
    path = tmp_path / "result.bin"
    path.write_bytes(b"old")
    with atomic_file(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("error", [OSError, ValueError, KeyboardInterrupt])
def test_an_error_leaves_what_was_there_and_nothing_else(tmp_path, error):
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


def test_text_is_utf8_with_newlines_as_written(tmp_path):
    with atomic_file(tmp_path / "notes.txt", text=True) as file:
        file.write("zwölf\r\neins\n")
    assert (tmp_path / "notes.txt").read_bytes() == "zwölf\r\neins\n".encode()


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_a_result_is_as_private_as_other_files(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        with atomic_file(tmp_path / "result.bin") as file:
            file.write(b"x")
        assert os.umask(umask) == umask  # and the umask itself is left as it was
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "result.bin").stat().st_mode) == mode


def test_a_folder_in_the_way_is_an_error_that_leaves_nothing(tmp_path):
    (tmp_path / "result.bin").mkdir()

    def write():
        with atomic_file(tmp_path / "result.bin") as file:
            file.write(b"x")

    with pytest.raises(OSError, match="directory"):
        write()
    assert names_in(tmp_path) == ["result.bin"]


def test_a_missing_folder_is_an_error(tmp_path):
    for atomic in (atomic_file, atomic_folder):
        with pytest.raises(FileNotFoundError), atomic(tmp_path / "absent" / "result"):
            pass


@pytest.mark.parametrize("name", ["x" * 255, "é" * 127, "影" * 85, "-x", " ", "%s", "a\nb"])
def test_any_name_that_a_file_system_takes_can_be_written(tmp_path, name):
    with atomic_file(tmp_path / name) as file:
        file.write(b"x")
    with atomic_folder(tmp_path / f"{name[:-3]}of") as folder:
        (folder / "part").touch()
    assert sorted([name, f"{name[:-3]}of"]) == names_in(tmp_path)


def test_a_name_that_no_file_system_takes_is_an_error_that_leaves_nothing(tmp_path):
    for atomic in (atomic_file, atomic_folder):
        with pytest.raises(OSError, match="name too long"), atomic(tmp_path / ("x" * 256)):
            pass
    assert names_in(tmp_path) == []


def test_bytes_can_be_read_back_before_the_end(tmp_path):
    with atomic_file(tmp_path / "result.bin") as file:
        file.write(b"one two")
        file.seek(4)
        assert file.read() == b"two"


def test_a_full_disk_is_an_error_that_leaves_what_was_there(tmp_path):
    (tmp_path / "result.bin").write_bytes(b"old")

    def write():
        with atomic_file(tmp_path / "result.bin") as file:
            file.write(bytes(2000))  # less than is written at once: seen only at the end

    with full_disk(1000), pytest.raises(OSError, match="too large"):
        write()
    assert (tmp_path / "result.bin").read_bytes() == b"old"
    assert names_in(tmp_path) == ["result.bin"]


def test_threads_leave_the_umask_alone(tmp_path):
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


class TestAFolder:
    def test_takes_its_name_with_all_that_is_in_it(self, tmp_path):
        with atomic_folder(tmp_path / "result") as folder:
            (folder / "one").write_bytes(b"1")
            assert not (tmp_path / "result").exists()
            (folder / "two").write_bytes(b"2")
        assert names_in(tmp_path) == ["result"]
        assert names_in(tmp_path / "result") == ["one", "two"]

    def test_replaces_one_that_was_there_until_then(self, tmp_path):
        (tmp_path / "result").mkdir()
        (tmp_path / "result" / "old").touch()
        with atomic_folder(tmp_path / "result") as folder:
            (folder / "new").touch()
            assert names_in(tmp_path / "result") == ["old"]
        assert names_in(tmp_path / "result") == ["new"]
        assert names_in(tmp_path) == ["result"]

    @pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
    def test_after_an_error_is_not_there_and_the_earlier_one_is(self, tmp_path, error):
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

    def test_that_cannot_take_its_name_puts_the_earlier_one_back(self, tmp_path, monkeypatch):
        (tmp_path / "result").mkdir()
        (tmp_path / "result" / "old").touch()
        rename, calls = os.rename, []

        def second_fails(old, new):
            calls.append(new)
            if len(calls) == 2:
                raise OSError("the disk went away")
            rename(old, new)

        def write():
            with atomic_folder(tmp_path / "result") as folder:
                (folder / "new").touch()
                monkeypatch.setattr(os, "rename", second_fails)

        with pytest.raises(OSError, match="the disk went away"):
            write()
        assert names_in(tmp_path) == ["result"]
        assert names_in(tmp_path / "result") == ["old"]

    def test_with_a_file_in_the_way_is_an_error_that_leaves_it(self, tmp_path):
        (tmp_path / "result").write_bytes(b"a file")
        with pytest.raises(NotADirectoryError), atomic_folder(tmp_path / "result"):
            pass
        assert names_in(tmp_path) == ["result"]

    @pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o755), (0o077, 0o700)])
    def test_is_as_private_as_other_folders(self, tmp_path, umask, mode):
        before = os.umask(umask)
        try:
            with atomic_folder(tmp_path / "result"):
                pass
        finally:
            os.umask(before)
        assert stat.S_IMODE((tmp_path / "result").stat().st_mode) == mode
