"""The model store: only complete versions get numbers, and equal inputs are recognised.

Demo and random weights are not published over trained ones.
"""

import errno
import json
import os
import shutil
import stat
import time
from pathlib import Path

import pytest
from c3d_client.core.errors import UsageError
from c3d_export import store
from c3d_export.card import stored_card
from c3d_export.errors import ExportError, TrainedVersionError, VerificationError
from c3d_export.graph import GraphServable, read_card
from c3d_export.store import (
    check_not_over_trained,
    check_space,
    give_number,
    publish,
    unfinished_version,
    version_made_of,
    writing,
)
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

DAY_S = 24 * 3600
RANDOM = {"source": "random:3", "random": True, "note": "not a trained network"}
TRAINED = {"source": "mine.h5", "random": False, "note": ""}


def saved_model(*cards: object) -> bytes:
    """Return a SavedModel whose only signature answers with these constants."""
    model = SavedModel()
    function = model.meta_graphs.add().graph_def.library.function.add()
    for card in cards:
        node = function.node_def.add(name="Fill/value", op="Const")
        node.attr["dtype"].type = types_pb2.DT_STRING
        node.attr["value"].tensor.dtype = types_pb2.DT_STRING
        node.attr["value"].tensor.string_val.append(json.dumps(card).encode())
    return model.SerializeToString()


def card_of(weights: object) -> dict[str, object]:
    return {"contract_version": 1, "weights": weights}


def make_version(base: Path, digest: str, text: str = "saved", weights=RANDOM) -> Path:
    with unfinished_version(base) as unfinished:
        (unfinished / "saved_model.pb").write_bytes(saved_model(card_of(weights)))
        (unfinished / "variables").mkdir()
        (unfinished / "variables" / "data").write_text(text)
        return give_number(unfinished, base, digest=digest)


def modes(folder: Path) -> set[str]:
    """Return the permissions of a folder, and of all files and folders in it."""
    return {stat.filemode(path.stat().st_mode) for path in (folder, *folder.rglob("*"))}


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

    def test_version_and_new_folders_are_readable_by_all_users_whatever_the_umask(self, tmp_path):
        for umask in (0o022, 0o027, 0o077):
            root = tmp_path / f"{umask:o}"
            before = os.umask(umask)
            try:
                make_version(root / "models" / "c3d", "a")
            finally:
                os.umask(before)
            assert modes(root) == {"drwxr-xr-x", "-rw-r--r--"}, oct(umask)

    def test_permissions_of_existing_folders_and_of_their_group_stay(self, tmp_path):
        tmp_path.chmod(0o2770)
        version = make_version(tmp_path, "a")
        assert stat.filemode(tmp_path.stat().st_mode) == "drwxrws---"
        assert "drwxr-sr-x" in modes(version)

    def test_folder_that_cannot_be_read_is_an_error_and_not_empty(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(ExportError, match="file: the model's folder cannot be read .Not a dir"):
            version_made_of(tmp_path / "file", "a")


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

    def test_folder_that_is_a_link_is_copied_with_its_files(self, tmp_path):
        built = make_version(tmp_path / "built", "a")
        (built / "variables").rename(tmp_path / "elsewhere")
        (built / "variables").symlink_to(tmp_path / "elsewhere")
        version, _ = publish(built, tmp_path / "c3d")
        assert not (version / "variables").is_symlink()
        assert (version / "variables" / "data").read_text() == "saved"

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
        with pytest.raises(ExportError, match=r"c3d: the disk is full .No space left on device\)"):
            publish(built, tmp_path / "c3d")
        assert not (tmp_path / "c3d").exists()

    def test_copy_is_readable_by_all_users_though_the_source_is_not(self, tmp_path):
        built = make_version(tmp_path / "built", "a")
        for path in (*built.rglob("*"), built):
            path.chmod(0o500 if path.is_dir() else 0o400)
        version, _ = publish(built, tmp_path / "models" / "c3d")
        assert modes(tmp_path / "models") == {"drwxr-xr-x", "-rw-r--r--"}
        assert version_made_of(tmp_path / "models" / "c3d", "a") == version

    def test_version_without_a_model_card_is_refused(self, tmp_path):
        built = make_version(tmp_path / "built", "a")
        (built / "saved_model.pb").unlink()
        with pytest.raises(VerificationError, match="saved_model.pb: cannot be read .No such"):
            publish(built, tmp_path / "c3d")
        assert not (tmp_path / "c3d").exists()


class TestStoredCard:
    def test_card_is_the_one_that_the_signature_returns(self, tiny_base):
        with GraphServable(tiny_base / "1") as servable:
            assert stored_card(tiny_base / "1") == read_card(servable).to_dict()

    def test_version_without_exactly_one_card_is_an_error(self, tmp_path):
        card = card_of(RANDOM)
        cases = {
            "no model cards": saved_model({"weights": {}}, ["contract_version"], "a", 1),
            "2 model cards": saved_model(card, card_of(TRAINED)),
            "damaged; it is not a SavedModel": saved_model(card)[:-5],
            "cannot be read .Is a directory": None,
        }
        for text, content in cases.items():
            file = tmp_path / text / "saved_model.pb"
            file.parent.mkdir()
            file.mkdir() if content is None else file.write_bytes(content)
            with pytest.raises(VerificationError, match=text):
                stored_card(tmp_path / text)
        (tmp_path / "saved_model.pb").write_bytes(saved_model(card, card, "a"))
        assert stored_card(tmp_path) == card


class TestTrainedVersions:
    def test_untrained_weights_are_refused_over_trained_ones(self, tmp_path):
        base = tmp_path / "c3d"
        check_not_over_trained(base, "demo")
        make_version(base, "a")
        check_not_over_trained(base, "demo")
        make_version(base, "b", weights=TRAINED)
        make_version(base, "c")
        expected = (
            rf"^demo is not published: {base}/2 has trained weights \(mine\.h5\), .*--over-tr"
        )
        with pytest.raises(TrainedVersionError, match=expected):
            check_not_over_trained(base, "demo")

    def test_only_the_mark_of_random_weights_counts_as_untrained(self, tmp_path):
        cards = (
            {},
            {"random": None},
            {"random": "true"},
            {"random": 1},
            {"random": False, "note": "not a trained network"},
            {"random": False, "source": "demo"},
        )
        for number, weights in enumerate(cards):
            make_version(tmp_path / str(number), "a", weights=weights)
            with pytest.raises(TrainedVersionError, match="has trained weights"):
                check_not_over_trained(tmp_path / str(number), "random:0")

    def test_version_whose_card_cannot_be_read_counts_as_trained(self, tmp_path):
        make_version(tmp_path, "a")
        (tmp_path / "3").mkdir()
        expected = rf"{tmp_path}/3 counts as trained, .*3/saved_model.pb: cannot be read \(No such"
        with pytest.raises(TrainedVersionError, match=expected):
            check_not_over_trained(tmp_path, "demo")

    def test_publish_refuses_them_and_copies_them_where_asked(self, tmp_path):
        base = tmp_path / "c3d"
        make_version(base, "a", weights=TRAINED)
        built = make_version(tmp_path / "built", "b")
        with pytest.raises(TrainedVersionError, match="random:3 is not published: .*c3d/1 has tr"):
            publish(built, base)
        assert entries(base) == ["1"]
        assert publish(built, base, over_trained=True) == (base / "2", True)

    def test_publish_copies_trained_weights(self, tmp_path):
        base = tmp_path / "c3d"
        make_version(base, "a", weights=TRAINED)
        built = make_version(tmp_path / "built", "b", weights=TRAINED)
        assert publish(built, base) == (base / "2", True)

    def test_version_with_the_same_inputs_is_no_refusal(self, tmp_path):
        base = tmp_path / "c3d"
        make_version(base, "a")
        make_version(base, "b", weights=TRAINED)
        built = make_version(tmp_path / "built", "a")
        assert publish(built, base) == (base / "1", False)

    def test_version_that_appears_during_the_copy_is_seen(self, tmp_path, monkeypatch):
        base, copy = tmp_path / "c3d", shutil.copyfile
        built = make_version(tmp_path / "built", "b")

        def copy_after_another_job(source, target):
            if not (base / "1").exists():
                make_version(base, "a", weights=TRAINED)
            return copy(source, target)

        monkeypatch.setattr(store.shutil, "copyfile", copy_after_another_job)
        with pytest.raises(TrainedVersionError, match="c3d/1 has trained weights"):
            publish(built, base)
        assert entries(base) == ["1"]


class TestFullDisk:
    def test_too_little_space_is_an_error_before_anything_is_written(self, tmp_path):
        check_space(tmp_path / "models" / "c3d", 1000)
        with pytest.raises(
            ExportError, match=r"c3d: the disk is full .*: it needs 9,000,000,000,00"
        ):
            check_space(tmp_path / "models" / "c3d", 9 * 10**18)
        assert list(tmp_path.iterdir()) == []

    def test_error_of_a_full_disk_or_quota_has_both_sizes(self, tmp_path):
        for number in (errno.ENOSPC, errno.EDQUOT):
            expected = r"the disk is full \(.*\): it needs 12,345 bytes, and [\d,]+ are free there"
            with pytest.raises(ExportError, match=expected), writing(tmp_path, 12_345):
                raise OSError(number, os.strerror(number))

    def test_file_system_without_a_size_is_not_full(self, tmp_path, monkeypatch):
        usage = shutil.disk_usage(tmp_path)._replace(total=0, free=0)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
        check_space(tmp_path, 9 * 10**18)
