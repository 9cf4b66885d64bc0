"""The model store: only complete versions get numbers, and equal inputs are recognised."""

import os
import stat
import time
from pathlib import Path

import pytest
from c3d_client.core.errors import UsageError
from c3d_export import store
from c3d_export.errors import ExportError
from c3d_export.store import give_number, publish, unfinished_version, version_made_of

DAY_S = 24 * 3600


def make_version(base: Path, digest: str, text: str = "saved") -> Path:
    with unfinished_version(base) as unfinished:
        (unfinished / "variables").mkdir()
        (unfinished / "variables" / "data").write_text(text)
        return give_number(unfinished, base, digest=digest)


def entries(base: Path) -> list[str]:
    return sorted(entry.name for entry in base.iterdir())


class TestNumbers:
    def test_next_number_follows_the_highest(self, tmp_path):
        base = tmp_path / "models" / "c3d"
        assert make_version(base, "a") == base / "1"
        (base / "7").mkdir()
        (base / "latest").mkdir()
        assert make_version(base, "b") == base / "8"
        assert entries(base) == ["1", "7", "8", "latest"]

    def test_number_of_a_concurrent_build_is_not_used_twice(self, tmp_path, monkeypatch):
        rename, other_builds = Path.rename, iter(["1"])

        def rename_after_another_build(source, target):
            for name in other_builds:
                (tmp_path / name).mkdir()
                (tmp_path / name / "saved_model.pb").write_text("theirs")
            return rename(source, target)

        monkeypatch.setattr(Path, "rename", rename_after_another_build)
        assert make_version(tmp_path, "a") == tmp_path / "2"
        assert (tmp_path / "1" / "saved_model.pb").read_text() == "theirs"

    def test_version_is_readable_by_all_users(self, tmp_path):
        assert stat.S_IMODE(make_version(tmp_path, "a").stat().st_mode) == 0o755


class TestMadeOf:
    def test_newest_version_with_the_digest_is_returned(self, tmp_path):
        for digest in ("a", "b", "a"):
            make_version(tmp_path, digest)
        assert version_made_of(tmp_path, "a") == tmp_path / "3"
        assert version_made_of(tmp_path, "b") == tmp_path / "2"
        assert version_made_of(tmp_path, "c") is None

    def test_version_10_is_newer_than_9(self, tmp_path):
        for number in ("9", "10"):
            (tmp_path / number).mkdir()
            (tmp_path / number / "made-of").write_text("a\n")
        assert version_made_of(tmp_path, "a") == tmp_path / "10"

    def test_missing_folder_has_no_version(self, tmp_path):
        assert version_made_of(tmp_path / "none", "a") is None

    def test_files_that_cannot_be_read_are_skipped(self, tmp_path):
        make_version(tmp_path, "a")
        (tmp_path / "2" / "made-of").mkdir(parents=True)
        (tmp_path / "3").mkdir()
        (tmp_path / "3" / "made-of").write_bytes(b"\xff")
        assert version_made_of(tmp_path, "a") == tmp_path / "1"


class TestUnfinished:
    def test_folder_is_hidden_and_removed_after_an_error(self, tmp_path):
        folders = []

        def fail():
            with unfinished_version(tmp_path / "c3d") as unfinished:
                folders.append((unfinished.name[0], unfinished.parent))
                raise RuntimeError("full")

        with pytest.raises(RuntimeError, match="full"):
            fail()
        assert folders == [(".", tmp_path / "c3d")]
        assert not (tmp_path / "c3d").exists()

    def test_folder_of_a_killed_build_is_removed_when_it_is_old(self, tmp_path):
        now = time.time()
        for name, age_s in (("old", DAY_S), ("young", 60)):
            folder = tmp_path / f".building-{name}"
            (folder / "variables").mkdir(parents=True)
            for path in (folder / "variables", folder):
                os.utime(path, (now - age_s, now - age_s))
        with unfinished_version(tmp_path):
            pass
        assert entries(tmp_path) == [".building-young"]

    def test_old_folder_with_new_files_is_not_removed(self, tmp_path):
        old = tmp_path / ".building-old"
        (old / "variables").mkdir(parents=True)
        os.utime(old, (time.time() - DAY_S,) * 2)
        with unfinished_version(tmp_path):
            pass
        assert old.exists()

    def test_folder_that_cannot_be_written_is_an_error(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(ExportError, match="file: cannot be written"):
            unfinished_version(tmp_path / "file").__enter__()


class TestPublish:
    def test_version_is_copied_whole(self, tmp_path):
        built = make_version(tmp_path / "built", "a")
        assert publish(built, tmp_path / "c3d") == (tmp_path / "c3d" / "1", True)
        assert (tmp_path / "c3d" / "1" / "variables" / "data").read_text() == "saved"
        assert version_made_of(tmp_path / "c3d", "a") == tmp_path / "c3d" / "1"
        assert built.exists()

    def test_version_with_the_same_inputs_is_not_copied_again(self, tmp_path):
        make_version(tmp_path / "c3d", "a", "first")
        built = make_version(tmp_path / "built", "a", "second")
        assert publish(built, tmp_path / "c3d") == (tmp_path / "c3d" / "1", False)
        assert (tmp_path / "c3d" / "1" / "variables" / "data").read_text() == "first"
        assert entries(tmp_path / "c3d") == ["1"]

    def test_folder_of_another_program_is_refused(self, tmp_path):
        (tmp_path / "1").mkdir()
        with pytest.raises(UsageError, match=r"/1: not a version that c3d-export build wrote"):
            publish(tmp_path / "1", tmp_path / "c3d")
        assert not (tmp_path / "c3d").exists()

    def test_failed_copy_leaves_no_folder(self, tmp_path, monkeypatch):
        built = make_version(tmp_path / "built", "a")

        def full(path):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(store, "sync", full)
        with pytest.raises(ExportError, match="cannot be copied there .No space left"):
            publish(built, tmp_path / "c3d")
        assert not (tmp_path / "c3d").exists()
