"""The compiled export pipeline under kfp.local and its steps: a verified version in the store."""

from __future__ import annotations

import os
import shutil
import socketserver
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from c3d_export.verify import verify
from c3d_pipelines.errors import RunError
from c3d_pipelines.run import export_steps
from model_export.test_store import TRAINED, make_version
from pipelines.test_pipeline import run

SCRIPT = Path(__file__).parents[2] / "k8s/jobs/export-model/export.sh"
INPUTS = {"weights": "random:3", "mean": "default", "labels": "default"}
BUILD = {**INPUTS, "precision": "float32"}


def versions(store: Path) -> list[str]:
    return sorted(entry.name for entry in store.iterdir())


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    """A store with the version that the compiled pipeline built from seeded narrow weights."""
    folder = tmp_path_factory.mktemp("export")
    done = run(
        "c3d-export-and-verify", folder, weights="random:3", width=4, store=str(folder / "c3d")
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder / "c3d"


def build(store: Path, folder: Path, **changes) -> None:
    inputs = {**BUILD, "width": 4.0, **changes}
    files = str(folder / "files")
    export_steps.fetch_step(
        **{name: inputs[name] for name in INPUTS},
        files_path=files,
    )
    export_steps.build_step(
        **inputs, store=str(store), files_path=files, built_path=str(folder / "built")
    )


@pytest.mark.long
def test_version_is_built_verified_and_numbered(published):
    assert versions(published) == ["1"]
    assert verify(published / "1").differences


@pytest.mark.long
def test_same_inputs_give_no_second_version(published, tmp_path):
    build(published, tmp_path)
    built = str(tmp_path / "built")
    assert not (tmp_path / "built" / "1").exists()
    assert Path(built, "version").read_text() == str(published / "1")
    version = export_steps.publish_step(store=str(published), built_path=built)
    assert version == str(published / "1")
    assert versions(published) == ["1"]


@pytest.fixture
def existing(published, tmp_path) -> Path:
    """A store with a version that the build step uses, so that it builds none."""
    store = Path(shutil.copytree(published, tmp_path / "c3d"))
    (tmp_path / "built").mkdir()
    (tmp_path / "built" / "version").write_text(str(store / "1"))
    return store


@pytest.mark.long
def test_damaged_version_is_not_published(existing, tmp_path):
    (existing / "1" / "saved_model.pb").write_bytes(b"")
    with pytest.raises(RunError, match="c3d-export verify: "):
        export_steps.verify_step(
            built_path=str(tmp_path / "built"), text_path=str(tmp_path / "text")
        )


@pytest.mark.long
def test_version_that_was_removed_meanwhile_is_an_error(existing, tmp_path):
    shutil.rmtree(existing / "1")
    with pytest.raises(RunError, match=r"c3d/1: the version is gone; run the pipeline again"):
        export_steps.publish_step(store=str(existing), built_path=str(tmp_path / "built"))


@pytest.mark.long
def test_store_that_cannot_be_written_is_named(existing, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(RunError, match=r"c3d-export publish: .*file/c3d: .*cannot be read .Not a"):
        export_steps.publish_step(
            store=str(tmp_path / "file" / "c3d"), built_path=str(tmp_path / "built")
        )


@pytest.mark.long
class TestTrainedVersions:
    """Demo and random weights do not become the newest version of a store with trained ones."""

    @pytest.fixture
    def store(self, tmp_path) -> Path:
        make_version(tmp_path / "c3d", "of another build", weights=TRAINED)
        return tmp_path / "c3d"

    def test_build_fails_with_the_exporters_line(self, store, tmp_path):
        expected = rf"built no version: random:3 is not published: {store}/1 has trained weights"
        with pytest.raises(RunError, match=expected):
            build(store, tmp_path)
        assert versions(store) == ["1"]

    def test_publish_fails_with_the_exporters_line(self, published, store, tmp_path):
        shutil.copytree(published / "1", tmp_path / "built" / "1")
        (tmp_path / "built" / "version").write_text("1")
        to = {"store": str(store), "built_path": str(tmp_path / "built")}
        with pytest.raises(RunError, match=f"c3d-export publish: .*{store}/1 has trained weights"):
            export_steps.publish_step(**to)
        assert versions(store) == ["1"]
        assert export_steps.publish_step(**to, over_trained=True) == str(store / "2")

    def test_pipeline_publishes_them_where_asked(self, store, tmp_path):
        inputs = {"weights": "random:3", "width": 4, "store": str(store)}
        done = run("c3d-export-and-verify", tmp_path, **inputs, over_trained=True)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        assert versions(store) == ["1", "2"]


class TestNames:
    def test_published_names_are_fetched_and_other_values_are_not(self):
        for value in ("default", "demo", "random:0", "/models/x.npz", "1,2.5,-3"):
            assert not export_steps._is_published(value), value
        for value in ("c3d.pickle", "labels.txt", "mean,cube"):
            assert export_steps._is_published(value), value

    def test_unknown_name_is_refused_with_the_exporters_message(self, tmp_path):
        with pytest.raises(RunError, match="c3d-export fetch: .*nothing-like-it"):
            export_steps.fetch_step(
                weights="nothing-like-it",
                mean="default",
                labels="default",
                files_path=str(tmp_path),
            )

    def test_network_that_is_away_at_the_start_is_waited_for(self, tmp_path, monkeypatch):
        """A proxy that is not there for two attempts, and then refuses, which does not pass."""
        attempts = []
        real = export_steps._export

        class Refusal(socketserver.StreamRequestHandler):
            def handle(self):
                self.wfile.write(b"HTTP/1.1 403 Forbidden\r\n\r\n")

        def export(*arguments: str) -> str:
            attempts.append(arguments)
            if len(attempts) == 3:
                proxy.server_activate()
                threading.Thread(target=proxy.serve_forever, daemon=True).start()
            return real(*arguments)

        monkeypatch.setattr(export_steps, "_export", export)
        monkeypatch.setattr(export_steps, "_FIRST_PAUSE_S", 0.01)
        proxy = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Refusal, bind_and_activate=False)
        with proxy:
            proxy.server_bind()  # a port where nothing listens yet
            for name in ("HTTPS_PROXY", "https_proxy"):
                monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.server_address[1]}")
            inputs = {"weights": "demo", "mean": "default", "labels": "sports1M_classes.txt"}
            with pytest.raises(RunError, match="c3d-export fetch: 1 not fetched"):
                export_steps.fetch_step(**inputs, files_path=str(tmp_path))
            assert len(attempts) == 3
            proxy.shutdown()

    def test_orders_of_a_checkpoint_reach_the_exporter(self, tmp_path):
        for given in ({"channels": "rgb"}, {"fc6_rows": "hwc"}):
            with pytest.raises(RunError, match="are for TensorFlow checkpoints alone"):
                build(tmp_path / "c3d", tmp_path, **given)

    def test_target_reaches_the_exporter(self, tmp_path, monkeypatch):
        """Without one, as in pipelines of release 0.1.0, every precision is built as before."""
        calls = []

        def export(*arguments: str) -> str:
            calls.append(arguments)
            return f"{tmp_path}/built/1: built"

        monkeypatch.setattr(export_steps, "_export", export)
        for precision, given, expected in (
            ("float32", {}, ()),
            ("bfloat16", {}, ("--target", "cpu", "--elsewhere")),
            ("float16", {}, ("--target", "gpu")),
            ("float16", {"target": "default"}, ("--target", "gpu")),
            ("bfloat16", {"target": "cpu"}, ("--target", "cpu")),
            ("float32", {"target": "gpu"}, ("--target", "gpu")),
        ):
            build(tmp_path / "c3d", tmp_path, precision=precision, **given)
            _, *options = calls[-1]
            rest = options[options.index("--precision") + 2 : options.index("--width")]
            assert (options[3], tuple(rest)) == (precision, expected), given

    def test_unknown_target_is_refused_with_the_exporters_message(self, tmp_path):
        with pytest.raises(RunError, match="c3d-export build: .*'tpu' is not one of 'cpu', 'gpu'"):
            build(tmp_path / "c3d", tmp_path, target="tpu")

    def test_missing_file_is_refused(self, tmp_path):
        with pytest.raises(RunError, match="c3d-export build: .*cannot be read"):
            build(tmp_path / "c3d", tmp_path, weights=str(tmp_path / "none.npz"))


@pytest.mark.long
def test_job_of_k8s_makes_one_version_of_the_same_inputs_too(published, tmp_path):
    store = Path(shutil.copytree(published, tmp_path / "c3d"))
    command = tmp_path / "bin" / "c3d-export"
    command.parent.mkdir()
    # The job builds at full width, which takes minutes.
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m c3d_export "$@" --width 4\n')
    command.chmod(0o755)

    def job(**changes: str) -> subprocess.CompletedProcess[str]:
        settings = {"WEIGHTS": "random:3", "MEAN": "", "LABELS": "", "PRECISION": "float32"}
        return subprocess.run(
            ["sh", str(SCRIPT)],
            env={
                "PATH": f"{command.parent}:{os.environ['PATH']}",
                "MODEL_STORE": str(store),
                **settings,
                **changes,
            },
            capture_output=True,
            text=True,
            check=False,
        )

    repeated = job()
    assert repeated.returncode == 0, repeated.stderr
    assert repeated.stdout.startswith(f"{store}/1: has the same inputs")
    assert job(OVER_TRAINED="yes").stdout == repeated.stdout
    other = job(MEAN="1,2,3")
    assert other.returncode == 0, other.stderr
    assert other.stdout.startswith(f"{store}/2: C3D random:3")
    # Kubernetes does not retry this exit code: podFailurePolicy.
    for given in ({"CHANNELS": "rgb"}, {"FC6_ROWS": "hwc"}):
        refused = job(**given)
        assert refused.returncode == 2
        assert "are for TensorFlow checkpoints alone" in refused.stderr
    wrong = job(PRECISION="float13")
    assert wrong.returncode == 2
    assert versions(store) == ["1", "2"]
