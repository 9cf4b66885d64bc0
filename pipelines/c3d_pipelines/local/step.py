"""One step of a run on this machine: does what Kubeflow would run, and leaves word of how it went.

`child.py` has kfp start this module in place of `kfp.dsl.executor_main`. Between the two it
stops the step when the run is over, sends what is printed to the run's log, whatever bytes native
libraries print, and writes down the step's state for those who watch.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from c3d_client.core.errors import C3DError
from c3d_client.core.signals import exit_code

from c3d_pipelines.local.folder import GRACE_S, LocalFolder, write_whole

RUNNING, DONE, FAILED = "running", "done", "failed"
STOPPED = exit_code(signal.SIGINT)


@dataclass(frozen=True)
class Step:
    """What is known of a step.

    Args:
        name: the component's function, such as ``extract``.
        run: the run's name; empty where the step is not told.
        began_at: seconds since 1970.
        state: ``running``, ``done`` or ``failed``; a step that was killed stays ``running``.
        error: why it failed, in one line; empty otherwise.
        artifacts: the paths of what it makes, by name.
    """

    name: str
    run: str
    began_at: float
    state: str = RUNNING
    error: str = ""
    artifacts: Mapping[str, str] = field(default_factory=dict)


def read_steps(folder: LocalFolder) -> list[Step]:
    """The steps that have begun, in that order."""
    files = folder.steps.glob("[!.]*.json")
    return sorted((_read(path) for path in files), key=lambda step: step.began_at)


def _read(path: Path) -> Step:
    return Step(**json.loads(path.read_text(encoding="utf-8")))


def main(arguments: Sequence[str]) -> int:
    """Do one step.

    Args:
        arguments: the run's folder, then what kfp gives its executor.
    """
    folder = LocalFolder(Path(arguments[0]))
    if folder.is_over():
        return STOPPED
    with folder.log.open("ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's & had ignored
    folder.when_over(_stop)
    sys.argv = list(arguments)
    step = _begun(arguments[1:])
    with folder.working():
        return _do(step, folder.steps / f"{step.name}-{os.getpid()}.json")


def _do(step: Step, path: Path) -> int:
    write_whole(path, json.dumps(asdict(step)))
    try:
        from kfp.dsl.executor_main import executor_main

        executor_main()
    except BaseException as error:
        ended = replace(step, state=FAILED, error=_reason(error))
        write_whole(path, json.dumps(asdict(ended)))
        raise
    write_whole(path, json.dumps(asdict(replace(step, state=DONE))))
    return 0


def _begun(arguments: Sequence[str]) -> Step:
    options = dict(zip(arguments[::2], arguments[1::2], strict=False))
    given: dict[str, Any] = json.loads(options["--executor_input"])
    made = given.get("outputs", {}).get("artifacts", {})
    return Step(
        name=options["--function_to_execute"],
        run=str(given.get("inputs", {}).get("parameterValues", {}).get("run", "")),
        began_at=time.time(),
        artifacts={name: one["artifacts"][0]["uri"] for name, one in made.items()},
    )


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, C3DError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _stop() -> None:
    """End this process so that what is half-made is removed; after a while in any case."""
    # A step that listens for SIGTERM, as pods get it, ends in better order than by Ctrl-C.
    listens = signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    os.kill(os.getpid(), signal.SIGTERM if listens else signal.SIGINT)
    time.sleep(GRACE_S)
    os._exit(STOPPED)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
