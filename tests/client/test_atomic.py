"""Files that appear whole or not at all."""

import os
import stat

import pytest
from c3d_client.atomic import atomic_file


def test_the_name_is_taken_when_the_block_ends(tmp_path):
    path = tmp_path / "result.bin"
    with atomic_file(path) as file:
        file.write(b"half")
        assert not path.exists()
        file.write(b" and half")
    assert path.read_bytes() == b"half and half"
    assert [p.name for p in tmp_path.iterdir()] == ["result.bin"]


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
    assert [p.name for p in tmp_path.iterdir()] == ["result.bin"]


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
    assert [p.name for p in tmp_path.iterdir()] == ["result.bin"]


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_file(tmp_path / "absent" / "result.bin"):
        pass
