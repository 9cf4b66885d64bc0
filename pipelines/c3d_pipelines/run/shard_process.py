"""One shard of a run on this machine: ``python -m c3d_pipelines.run.shard_process``.

Arguments: the run's folder, the shard's index, the model's digest, and how many cores to use.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from c3d_pipelines.run.errors import failure_text
from c3d_pipelines.run.processes import STOPPED, RunFolder, stop_with_parent

PLAN, SETTINGS = "plan", "checked"


def main(arguments: Sequence[str]) -> None:
    """Do one shard and write the reason into the run's folder if it fails."""
    root, shard, model_digest, cores = arguments
    folder = RunFolder(Path(root))
    signal.signal(signal.SIGTERM, _exit)
    with folder.joined():
        stop_with_parent(lambda: os.kill(os.getpid(), signal.SIGTERM))
        logging.basicConfig(
            stream=sys.stdout, level=logging.INFO, format="%(asctime)s %(levelname)s: %(message)s"
        )
        from c3d_pipelines.run.steps import extract_step

        try:
            extract_step(
                shard=int(shard),
                model_digest=model_digest,
                plan_path=str(folder.artifacts / PLAN),
                settings_path=str(folder.artifacts / SETTINGS),
                cores=int(cores),
            )
        except Exception as error:
            folder.reason_file(int(shard)).write_text(failure_text(error), encoding="utf-8")
            raise


def _exit(number: int, frame: FrameType | None) -> None:
    raise SystemExit(STOPPED)


if __name__ == "__main__":
    main(sys.argv[1:])
