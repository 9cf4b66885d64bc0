"""The command as process 1 of a container: SIGTERM ends it, and nothing unfinished is left.

The kernel ignores a signal to process 1 that has no handler, and the default action of others.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from c3d_export import cli
from support.http_faults import CONTENT, stalls_after
from support.processes import LONG_S

NAMESPACE = ("unshare", "--pid", "--fork", "--mount-proc")
KUBERNETES_KILLS_S = 30.0
LINE = "c3d-export: interrupted; no incomplete file or version is left"

# Runs the command, and makes a file when it comes to a point in the code.
PROGRAM = """
import ctypes, sys, threading
from pathlib import Path

point, mark, address, *arguments = sys.argv[1:]

def importing(event, values):
    if event == "import" and values[0] == point:
        Path(mark).touch()

sys.addaudithook(importing)
if address:
    from c3d_export import assets
    assets.CATALOGUE = (assets.Asset("one.h5", "weights", "", assets.Fingerprint(), (address,)),)
if point == "saving":  # and no further
    from c3d_export import servable
    servable.verify = lambda *arguments, **options: threading.Event().wait()
if point == "verification":
    from c3d_export.graph import GraphServable
    run = GraphServable.run
    def endless(self, signature, *rest):
        if signature == "fc6_features":
            # A call of C, in which Python handles no signal, as when a CPU computes for minutes.
            ctypes.CDLL(None).system(f"touch {mark}; exec sleep 3600".encode())
        return run(self, signature, *rest)
    GraphServable.run = endless
from c3d_export.cli import main
main(arguments)
"""


def can_make_namespaces() -> bool:
    with contextlib.suppress(OSError):
        return subprocess.run([*NAMESPACE, "true"], capture_output=True).returncode == 0
    return False


pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(
        not can_make_namespaces(), reason="needs root, to run a command as process 1 of a namespace"
    ),
]


@contextlib.contextmanager
def process_one(*command: str, folder: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Run a command as process 1; yield the process around it, and its number outside."""
    temporary = folder / "temporary"
    temporary.mkdir()
    environment = {**os.environ, "TMPDIR": str(temporary), "HOME": str(folder / "home")}
    with subprocess.Popen(
        [*NAMESPACE, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        wait_until(lambda: bool(children.read_text().split()), process)
        number = int(children.read_text().split()[0])
        try:
            yield process, number
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline_s = time.monotonic() + LONG_S
    while not condition():
        assert time.monotonic() < deadline_s
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("point", "arguments"),
    [
        ("download", ("fetch", "one.h5", "--models", "{}/models")),
        ("tensorflow.python.framework.ops", ("--width", "4")),
        ("saving", ("--width", "32")),
        ("verification", ("--width", "4")),
    ],
    ids=["download", "import of TensorFlow", "saving", "verification"],
)
def test_sigterm_ends_with_143_and_leaves_nothing(point, arguments, tmp_path, server):
    folder = tmp_path / "run"
    folder.mkdir()
    if point != "download":
        build = ("build", "--weights", "random:3", "--batch-sizes", "1", "--out", "{}/models/c3d")
        arguments = (*build, *arguments)
    server.always = stalls_after(len(CONTENT) // 2)
    mark = tmp_path / "mark"
    patterns = {"download": "models/.c3d-*", "saving": "models/c3d/.building-*/*"}
    pattern = patterns.get(point)
    command = (sys.executable, "-c", PROGRAM, point, str(mark))
    command += (server.url if point == "download" else "",)
    command += tuple(argument.format(folder) for argument in arguments)
    with process_one(*command, folder=folder) as (process, number):
        wait_until(lambda: bool([*folder.glob(pattern)]) if pattern else mark.exists(), process)
        if point == "verification":
            assert list(folder.glob("models/c3d/.building-*"))
        os.kill(number, signal.SIGTERM)
        _, err = process.communicate(timeout=LONG_S)
    assert process.returncode == 143, err
    assert err.splitlines()[-1] == LINE
    assert "Traceback" not in err
    left = {str(path.relative_to(folder)) for path in folder.rglob("*")}
    # Keras writes its settings to the home folder.
    left = {path for path in left if not path.startswith("home")} - {"temporary", "models"}
    assert left == set()


def test_main_thread_gets_a_part_of_the_time_until_kubernetes_kills():
    assert cli._INTERRUPT_GRACE_S <= KUBERNETES_KILLS_S / 2
