"""The export pipeline runs as it is compiled: a verified version in the store, once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from c3d_client.errors import ExportError, UsageError
from c3d_export.verify import verify
from c3d_pipelines.steps import export as export_steps
from pipelines.test_pipeline import run

SCRIPT = Path(__file__).parents[2] / "k8s/jobs/export-model/export.sh"
GIVEN = {"weights": "random:3", "mean": "default", "labels": "default"}
BUILD = {**GIVEN, "precision": "float32"}


def versions(store: Path) -> list[str]:
    return sorted(entry.name for entry in store.iterdir())


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    """A store with the version that the compiled pipeline made of seeded narrow weights."""
    folder = tmp_path_factory.mktemp("export")
    done = run(
        "c3d-export-and-verify", folder, weights="random:3", width=4, store=str(folder / "c3d")
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder / "c3d"


def build(store: Path, folder: Path, **changes) -> str:
    given = {**BUILD, "width": 4.0, **changes}
    files = str(folder / "files")
    export_steps.fetch_step(
        **{name: given[name] for name in GIVEN},
        files_path=files,
    )
    return export_steps.build_step(
        **given, store=str(store), files_path=files, built_path=str(folder / "built")
    )


def test_a_version_is_built_verified_and_given_its_number(published):
    assert versions(published) == ["1"]
    assert verify(published / "1").differences
    assert (published / "1" / "made-of").read_text().strip()


def test_the_same_inputs_make_no_second_version(published, tmp_path):
    digest = build(published, tmp_path)
    assert not (tmp_path / "built" / "1").exists()
    store, built = str(published), str(tmp_path / "built")
    assert export_steps.publish_step(store=store, digest=digest, built_path=built).endswith("/1")
    assert versions(published) == ["1"]


def test_other_inputs_are_another_version(published, tmp_path):
    digests = {
        export_steps._digest(["random:3", "", ""], precision="float32", width=4),
        export_steps._digest(["random:4", "", ""], precision="float32", width=4),
        export_steps._digest(["random:3", "1,2,3", ""], precision="float32", width=4),
        export_steps._digest(["random:3", "", ""], precision="bfloat16", width=4),
        export_steps._digest(["random:3", "", ""], precision="float32", width=8),
    }
    assert len(digests) == 5
    assert (published / "1" / "made-of").read_text().strip() in digests


def test_a_version_that_was_damaged_is_not_published_for_good(published, tmp_path):
    store = Path(shutil.copytree(published, tmp_path / "c3d"))
    digest = (store / "1" / "made-of").read_text().strip()
    (store / "1" / "saved_model.pb").write_bytes(b"")
    with pytest.raises(ExportError, match="c3d-export verify: "):
        export_steps.verify_step(
            store=str(store),
            digest=digest,
            built_path=str(tmp_path / "none"),
            text_path=str(tmp_path / "text"),
        )


class TestPublish:
    def publish(self, store: Path, folder: Path, digest: str) -> str:
        (folder / "built" / "1").mkdir(parents=True, exist_ok=True)
        (folder / "built" / "1" / "saved_model.pb").write_text("x")
        return export_steps.publish_step(
            store=str(store), digest=digest, built_path=str(folder / "built")
        )

    def test_takes_the_next_number_and_leaves_nothing_else(self, tmp_path):
        store = tmp_path / "c3d"
        assert self.publish(store, tmp_path, "a").endswith("/1")
        (store / "7").mkdir()
        assert self.publish(store, tmp_path, "b").endswith("/8")
        assert self.publish(store, tmp_path, "a").endswith("/1")
        assert versions(store) == ["1", "7", "8"]

    def test_takes_the_one_after_when_another_run_was_first(self, tmp_path, monkeypatch):
        store = tmp_path / "c3d"
        rename, others = os.rename, iter(["1"])

        def late(source, target):
            for name in others:
                (store / name).mkdir()
                (store / name / "saved_model.pb").write_text("theirs")
            rename(source, target)

        monkeypatch.setattr(os, "rename", late)
        assert self.publish(store, tmp_path, "a").endswith("/2")

    def test_that_fails_leaves_nothing(self, tmp_path, monkeypatch):
        store = tmp_path / "c3d"

        def full(path):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(export_steps, "sync", full)
        with pytest.raises(ExportError, match="No space left"):
            self.publish(store, tmp_path, "a")
        assert versions(store) == []


class TestNames:
    @pytest.mark.parametrize("value", ["default", "demo", "random:0", "/models/x.npz", "1,2.5,-3"])
    def test_of_what_is_not_fetched(self, value):
        assert not export_steps._is_published(value)

    @pytest.mark.parametrize("value", ["c3d.pickle", "labels.txt", "mean,cube"])
    def test_of_what_is_fetched(self, value):
        assert export_steps._is_published(value)

    def test_that_nobody_published_are_refused_in_the_exporters_words(self, tmp_path):
        with pytest.raises(ExportError, match="c3d-export fetch: .*nothing-like-it"):
            export_steps.fetch_step(
                weights="nothing-like-it",
                mean="default",
                labels="default",
                files_path=str(tmp_path),
            )

    def test_of_a_file_that_is_not_there_are_refused(self, tmp_path):
        with pytest.raises(UsageError, match="cannot be read"):
            build(tmp_path / "c3d", tmp_path, weights=str(tmp_path / "none.npz"))


def test_the_job_of_k8s_knows_the_same_version_by_the_same_digest(tmp_path):
    mean = tmp_path / "mean.npy"
    mean.write_bytes(b"a mean")
    inputs = SCRIPT.read_text()
    inputs = inputs[inputs.index("inputs() {") : inputs.index("for note in")] + 'echo "$digest"'
    told = subprocess.run(
        ["sh", "-eu", "-c", inputs],
        env={
            # The script finds c3d-export where a shell does.
            **{"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
            **{"WEIGHTS": "demo", "MEAN": str(mean), "LABELS": "", "PRECISION": "f"},
        },
        capture_output=True,
        text=True,
        check=True,
    )
    ours = export_steps._digest(["demo", str(mean), ""], precision="f", width=64)
    assert told.stdout.strip() == ours
