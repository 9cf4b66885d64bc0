"""The model store: numbers are taken by whole versions only, and what is made of what is known."""

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
    with unfinished_version(base) as made:
        (made / "variables").mkdir()
        (made / "variables" / "data").write_text(text)
        return give_number(made, base, digest=digest)


def entries(base: Path) -> list[str]:
    return sorted(entry.name for entry in base.iterdir())


class TestNumbers:
    def test_follow_the_highest_there(self, tmp_path):
        base = tmp_path / "models" / "c3d"
        assert make_version(base, "a") == base / "1"
        (base / "7").mkdir()
        (base / "latest").mkdir()
        assert make_version(base, "b") == base / "8"
        assert entries(base) == ["1", "7", "8", "latest"]

    def test_go_on_when_another_build_was_first(self, tmp_path, monkeypatch):
        rename, others = Path.rename, iter(["1"])

        def late(source, target):
            for name in others:
                make = tmp_path / name
                make.mkdir()
                (make / "saved_model.pb").write_text("theirs")
            return rename(source, target)

        monkeypatch.setattr(Path, "rename", late)
        assert make_version(tmp_path, "a") == tmp_path / "2"
        assert (tmp_path / "1" / "saved_model.pb").read_text() == "theirs"

    def test_are_for_everybody_to_read(self, tmp_path):
        assert stat.S_IMODE(make_version(tmp_path, "a").stat().st_mode) == 0o755


class TestMadeOf:
    def test_is_found_the_newest_first(self, tmp_path):
        for digest in ("a", "b", "a"):
            make_version(tmp_path, digest)
        assert version_made_of(tmp_path, "a") == tmp_path / "3"
        assert version_made_of(tmp_path, "b") == tmp_path / "2"
        assert version_made_of(tmp_path, "c") is None

    def test_of_ten_is_newer_than_of_nine(self, tmp_path):
        for number in ("9", "10"):
            (tmp_path / number).mkdir()
            (tmp_path / number / "made-of").write_text("a\n")
        assert version_made_of(tmp_path, "a") == tmp_path / "10"

    def test_is_nothing_in_a_folder_that_is_not_there(self, tmp_path):
        assert version_made_of(tmp_path / "none", "a") is None

    def test_passes_over_notes_that_cannot_be_read(self, tmp_path):
        make_version(tmp_path, "a")
        (tmp_path / "2" / "made-of").mkdir(parents=True)
        (tmp_path / "3").mkdir()
        (tmp_path / "3" / "made-of").write_bytes(b"\xff")
        assert version_made_of(tmp_path, "a") == tmp_path / "1"


class TestUnfinished:
    def test_is_hidden_and_goes_with_an_error(self, tmp_path):
        seen = []

        def fail():
            with unfinished_version(tmp_path / "c3d") as made:
                seen.append((made.name[0], made.parent))
                raise RuntimeError("full")

        with pytest.raises(RuntimeError, match="full"):
            fail()
        assert seen == [(".", tmp_path / "c3d")]
        assert not (tmp_path / "c3d").exists()

    def test_of_a_build_that_was_killed_goes_later(self, tmp_path):
        now = time.time()
        for name, age_s in (("old", DAY_S), ("young", 60)):
            (tmp_path / f".building-{name}" / "variables").mkdir(parents=True)
            for path in (
                tmp_path / f".building-{name}" / "variables",
                tmp_path / f".building-{name}",
            ):
                os.utime(path, (now - age_s, now - age_s))
        with unfinished_version(tmp_path):
            pass
        assert entries(tmp_path) == [".building-young"]

    def test_that_is_old_but_still_written_to_stays(self, tmp_path):
        old = tmp_path / ".building-old"
        (old / "variables").mkdir(parents=True)
        os.utime(old, (time.time() - DAY_S,) * 2)
        with unfinished_version(tmp_path):
            pass
        assert old.exists()

    def test_in_a_place_that_cannot_be_written_is_named(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(ExportError, match="file: cannot be written"):
            unfinished_version(tmp_path / "file").__enter__()


class TestPublish:
    def test_copies_all_of_it_and_the_note(self, tmp_path):
        built = make_version(tmp_path / "built", "a")
        assert publish(built, tmp_path / "c3d") == (tmp_path / "c3d" / "1", True)
        assert (tmp_path / "c3d" / "1" / "variables" / "data").read_text() == "saved"
        assert version_made_of(tmp_path / "c3d", "a") == tmp_path / "c3d" / "1"
        assert built.exists()

    def test_leaves_one_that_is_made_of_the_same(self, tmp_path):
        make_version(tmp_path / "c3d", "a", "first")
        built = make_version(tmp_path / "built", "a", "second")
        assert publish(built, tmp_path / "c3d") == (tmp_path / "c3d" / "1", False)
        assert (tmp_path / "c3d" / "1" / "variables" / "data").read_text() == "first"
        assert entries(tmp_path / "c3d") == ["1"]

    def test_refuses_what_was_not_built_here(self, tmp_path):
        (tmp_path / "1").mkdir()
        with pytest.raises(UsageError, match=r"/1: no version there that c3d-export build made"):
            publish(tmp_path / "1", tmp_path / "c3d")
        assert not (tmp_path / "c3d").exists()

    def test_that_fails_leaves_nothing(self, tmp_path, monkeypatch):
        built = make_version(tmp_path / "built", "a")

        def full(path):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(store, "sync", full)
        with pytest.raises(ExportError, match="cannot be copied there .No space left"):
            publish(built, tmp_path / "c3d")
        assert not (tmp_path / "c3d").exists()
