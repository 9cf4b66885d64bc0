"""Full disks, and folders that cannot be read or written: one line, exit code 2, nothing left.

The disks are small tmpfs mounts, and the folders are another user's; both need root.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from c3d_export import assets, store
from c3d_export.assets import Asset
from c3d_export.disk import free_bytes
from c3d_export.weights import random_weights
from model_export.test_store import make_version
from support.http_faults import CONTENT, FINGERPRINT, in_chunks

USER = 65532  # the user of the images, and of the pods in k8s/
BUILD = ("build", "--weights", "random:3", "--width", "1", "--batch-sizes", "1")

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount and to change user")


@pytest.fixture
def disk(tmp_path) -> Iterator[Callable[..., Path]]:
    """Mount a disk of so many bytes."""
    mounted = []

    def mount(size: int) -> Path:
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no tmpfs can be mounted: {done.stderr.strip()}")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that other users can reach, which pytest's are not."""
    folder = Path(tempfile.mkdtemp(prefix="c3d-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@contextlib.contextmanager
def another_user() -> Iterator[None]:
    os.setegid(USER)
    os.seteuid(USER)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


@pytest.fixture
def error(run):
    """Run a command that must fail at once, and return its line."""

    def error(*arguments) -> str:
        code, out, err = run(*arguments)
        assert code == 2, (arguments, err)
        assert out == "", arguments
        assert err.startswith("c3d-export: "), (arguments, err)
        assert err.count("\n") == 1, (arguments, err)
        return err

    return error


def content(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.long
class TestFullDisk:
    """A version of this width has 76,997,804 bytes of variables."""

    def test_build_needs_little_more_than_the_version(self, run, disk):
        """The check before the build asks for enough, and refuses no disk that is large enough."""
        needed = 4 * (random_weights(3, width=1).parameters + 16 * 112 * 112 * 3) + (1 << 20)
        folder = disk(needed + (64 << 10))
        assert run(*BUILD, "--out", folder / "models" / "c3d")[0] == 0
        used = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
        assert needed - (1 << 20) < used < needed

    def test_build_is_refused_before_it_begins(self, error, disk):
        folder = disk(40 << 20)
        line = error(*BUILD, "--out", folder / "models" / "c3d")
        assert "c3d: the disk is full (too little space for a version): it needs 8" in line
        assert f"{free_bytes(folder):,} are free there; remove old versions, or enlarge" in line
        assert content(folder) == []

    def test_disk_that_fills_during_the_build_leaves_nothing(self, error, disk, monkeypatch):
        """Other programs may write meanwhile, and a quota is not in the free bytes."""
        monkeypatch.setattr("c3d_export.servable.check_space", lambda *_: None)
        folder = disk(40 << 20)
        line = error(*BUILD, "--out", folder / "models" / "c3d")
        assert "c3d: the disk is full (" in line
        assert "No space left on device" in line
        assert "it needs 8" in line
        assert content(folder) == []

    def test_publish(self, error, disk, tmp_path, monkeypatch):
        built = make_version(tmp_path / "built", "a", "x" * (3 << 20))
        folder = disk(2 << 20)
        publish = ("publish", built, "--to", folder / "models" / "c3d")
        assert "too little space for a version): it needs 3,145,9" in error(*publish)
        monkeypatch.setattr(store, "check_space", lambda *_: None)
        assert "No space left on device): it needs 3,145,9" in error(*publish)
        assert content(folder) == []

    def test_fetch(self, run, disk, server, monkeypatch):
        published = Asset("one.h5", "weights", "", FINGERPRINT, (server.url,))
        monkeypatch.setattr(assets, "CATALOGUE", (published,))
        folder = disk(100 << 10)
        for fault in (None, in_chunks):  # a length that is known before, and one that is not
            server.always = fault
            code, out, err = run("fetch", "one.h5", "--models", folder / "models")
            assert (code, err) == (2, "c3d-export: 1 not fetched: one.h5; see above\n")
            assert f"it needs {len(CONTENT):,} bytes, and " in out
            assert content(folder) == ["models"]

    def test_convert(self, error, disk, tmp_path, narrow_weights):
        np.savez(tmp_path / "in.npz", **narrow_weights.arrays)
        folder = disk(1 << 20)
        line = error("convert", tmp_path / "in.npz", folder / "out.npz")
        assert "out.npz: cannot be written (No space left on device): it needs " in line
        assert content(folder) == []


class TestAnotherUser:
    """Commands that run as a user who may not read or write a folder."""

    def test_folder_of_the_model_that_cannot_be_read(self, error, shared, tiny_base):
        base = shared / "c3d"
        base.mkdir(mode=0o700)
        shutil.copytree(tiny_base / "1", shared / "1")
        for path in (shared / "1").rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
        with another_user():
            for arguments in (
                (*BUILD, "--out", base),
                (*BUILD, "--out", base, "--over-trained"),
                (*BUILD, "--out", shared / "built", "--unless-in", base),
                ("publish", shared / "1", "--to", base),
                ("serve", base),
            ):
                line = error(*arguments)
                assert f"{base}: " in line, line
                assert "(Permission denied" in line, line
            assert "Permission denied" in error("verify", base / "1")
        assert content(shared / "c3d") == []
        assert not (shared / "built").exists()

    @pytest.mark.long
    def test_folder_that_cannot_be_written(self, run, error, shared, tiny_base, server):
        shutil.copytree(tiny_base / "1", shared / "1")
        for base in (shared / "c3d", shared / "models" / "c3d"):
            (shared / "c3d").mkdir(exist_ok=True)
            with another_user():
                for arguments in ((*BUILD, "--out", base), ("publish", shared / "1", "--to", base)):
                    line = error(*arguments)
                    assert f"{base}: cannot be written (Permission denied)" in line, line
                line = error("convert", "random:3", shared / "c3d" / "out.npz")
                assert "out.npz: cannot be written (Permission denied)" in line
                assert (
                    "cannot be created (Permission"
                    in run("fetch", "c3d_mean.npy", "--models", shared / "models")[2]
                )
        assert content(shared / "c3d") == []

    @pytest.mark.parametrize(
        "part",
        [
            *("made-of", "saved_model.pb", "variables", "assets.extra"),
            "variables/variables.data-00000-of-00001",
            "assets.extra/tf_serving_warmup_requests",
        ],
    )
    def test_version_of_which_a_part_cannot_be_read(self, error, shared, tiny_base, part):
        base = shared / "c3d"
        shutil.copytree(tiny_base, base)
        (base / "1" / part).chmod(0)
        to = shared / "to"
        to.mkdir()
        to.chmod(0o777)
        with another_user():
            assert "Permission denied" in error("publish", base / "1", "--to", to)
            if part != "made-of":
                assert f"{base}/1" in error("verify", base / "1")
                assert f"{base}/1" in error("serve", base, "--port", "0")
        assert content(to) == []

    @pytest.mark.long
    def test_version_of_another_user_is_read_by_all_whatever_the_umask(self, run, shared):
        before = os.umask(0o077)
        try:
            code, _, err = run(*BUILD, "--out", shared / "models" / "c3d")
        finally:
            os.umask(before)
        assert code == 0, err
        with another_user():
            assert run("verify", shared / "models" / "c3d" / "1")[0] == 0

    def test_read_only_disk(self, error, disk, tiny_base):
        folder = disk(200 << 20)
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        base = folder / "c3d"
        for arguments in ((*BUILD, "--out", base), ("publish", tiny_base / "1", "--to", base)):
            assert f"{base}: cannot be written (Read-only file system)" in error(*arguments)
