"""A data set that cannot be written: the reason is in the log's last line and in the report."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from c3d_pipelines.errors import StorageError
from c3d_pipelines.run.finish import report_step
from c3d_pipelines.run.steps import begin_step

# The first and the last step of a run, in a process whose log is its standard error. Each is done
# once before that, to load all modules: another user may not read the interpreter's folder.
_STEP = """
import contextlib, os, subprocess, sys, tempfile
from c3d_pipelines.run.finish import report_step
from c3d_pipelines.run.steps import begin_step
name, out, artifacts, prepare = sys.argv[1:]

def step(out, artifacts):
    if name == "plan":
        begin_step(videos=artifacts, out=out, run="r", answer="features", model_digest="any",
            plan_path=f"{artifacts}/plan", settings_path=f"{artifacts}/settings",
            shards_path=f"{artifacts}/shards")
    else:
        report_step(out=out, run="r", state="FAILED", message="",
            page_path=f"{artifacts}/page", text_path=f"{artifacts}/text")

with tempfile.TemporaryDirectory() as folder, contextlib.suppress(Exception):
    step(folder, folder)
exec(prepare)
step(out, artifacts)
"""
_OTHER_USER = "os.setgroups([]), os.setgid(65532), os.setuid(65532)"
_MOUNT = "subprocess.run(['mount', '-t', 'tmpfs', '-o', {0!r}, 'none', out], check=True)"
_FULL = f"""{_MOUNT.format("size=64k")}
with contextlib.suppress(OSError), open(f"{{out}}/other", "wb", buffering=0) as file:
    while file.write(bytes(1024)): pass
"""


@pytest.fixture
def folder():
    """A folder that every user may enter, and in it a data set's folder and one for artifacts."""
    # Not below tmp_path, which only its user may enter.
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for path, mode in ((folder, 0o755), (folder / "out", 0o755), (folder / "files", 0o777)):
            path.mkdir(exist_ok=True)
            path.chmod(mode)
        yield folder


def assert_reported(folder: Path, *reasons: str) -> None:
    for artifact in ("page", "text"):
        text = (folder / "files" / artifact).read_text().replace("\\", "")
        assert "the run ended before there was a plan" in text
        assert "events and the log of its pod" not in text
        for reason in reasons:
            assert reason in text.replace("&#39;", "'"), (artifact, reason)


def steps_end_with(
    folder: Path, prepare: str, *reasons: str, out: str = "out", command: tuple[str, ...] = ()
):
    """Check that both steps end with one line with the reasons, and that the report has them."""
    before = sorted((folder / "out").rglob("*"))
    for name in ("plan", "report"):
        arguments = [name, str(folder / out), str(folder / "files"), prepare]
        done = subprocess.run(
            [*command, sys.executable, "-c", _STEP, *arguments],
            capture_output=True,
            text=True,
            env={**os.environ, "HOME": str(folder)},
        )
        assert done.returncode == 1, (name, done.stderr)
        assert "Traceback" not in done.stderr, name
        last = done.stderr.strip().splitlines()[-1]
        assert last.startswith("c3d-pipelines: "), last
        for reason in reasons:
            assert reason in last, (name, reason, last)
    assert_reported(folder, *reasons)
    assert sorted((folder / "out").rglob("*")) == before


@pytest.mark.long
@pytest.mark.skipif(os.geteuid() != 0, reason="root becomes another user")
@pytest.mark.parametrize("mode", [0o755, 0o700], ids=["may not write", "may not read"])
def test_folder_of_another_user(folder, mode):
    volume = folder / "out"
    volume.chmod(mode)
    for out in ("out", "out/features"):  # the second does not exist yet
        steps_end_with(
            folder,
            _OTHER_USER,
            "(Permission denied); this is user 65532, and ",
            f"{volume} is of user 0, group 0, mode {mode:04o}",
            f"'chown -R 65532:65532 {volume}'",
            "in a Job or an initContainer",
            out=out,
        )


@pytest.mark.long
def test_volume_that_is_full_or_mounted_read_only(folder):
    own_mounts = (shutil.which("unshare") or "unshare", "-rm")
    try:
        subprocess.run([*own_mounts, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("unshare may not make a mount namespace")
    for prepare, reason in (
        (_MOUNT.format("ro"), f"(Read-only file system); {folder}/out is mounted read-only"),
        (_FULL, "(No space left on device); 0 bytes of 65.5 kB are free: enlarge the volume"),
    ):
        steps_end_with(folder, prepare, reason, command=own_mounts)


@pytest.mark.faults
def test_bucket_that_does_not_exist_or_denies_access(folder, monkeypatch, tmp_path):
    pytest.importorskip("s3fs", reason="s3fs is not installed: buckets not tested")
    from support.s3_faults import Fault, answers, s3_proxy
    from support.s3_server import s3_server

    with s3_server(tmp_path) as server, s3_proxy(server.endpoint) as proxy:
        server.use(monkeypatch)
        server.file_system().mkdir("bucket")
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        files, run = str(folder / "files"), {"run": "r", "state": "FAILED", "message": ""}
        denied = answers(403, "AccessDenied")
        for out, reason, verbs in (
            ("s3://none/out", "there is no such bucket", ()),
            ("s3://bucket/out", "access denied", ("PUT",)),
            ("s3://bucket/out", "access denied", ("GET", "PUT", "HEAD")),
        ):
            for step, values in (
                (begin_step, {"videos": files, "answer": "features", "model_digest": "any"}),
                (report_step, run),
            ):
                names = ("plan", "settings", "shards") if step is begin_step else ("page", "text")
                paths = {f"{name}_path": f"{files}/{name}" for name in names}
                # One for each request of the library's retries.
                proxy.faults = [Fault(denied, f"{verb} /bucket") for verb in verbs for _ in "123"]
                with pytest.raises(StorageError, match=reason):
                    step(**{"out": out, "run": "r", **values, **paths})
                proxy.faults.clear()
            assert_reported(folder, out, reason)
