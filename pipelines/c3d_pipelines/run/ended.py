"""Runs that ended without their report: found, tidied up and reported by the next run's plan.

A run that is terminated, or whose workflow became too large for Kubernetes, has no step left that
could report. Whether a run has ended is known from the API of Kubeflow Pipelines where a pod can
reach it, and otherwise from its silence: a run that works writes something every minute. A run that
is silent because its pods wait for a node may be taken for one that ended; its own report then
replaces the one that is written here.
"""

from __future__ import annotations

import json
import logging
import os
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from c3d_client.core.errors import C3DError
from c3d_client.core.files import TEMPORARY_PREFIX, read_token

from c3d_pipelines.reports.page import report_files
from c3d_pipelines.run.errors import failure_reasons
from c3d_pipelines.run.finish import summary_of
from c3d_pipelines.shards.commits import remove_temporary
from c3d_pipelines.shards.in_hand import FOLDER
from c3d_pipelines.storage import (
    PLAN,
    SUMMARY,
    Storage,
    run_file,
    temporary_prefix,
)
from c3d_pipelines.text import instant

# Workers write every minute. A run also waits between its steps, for nodes and images.
_SILENT_S = 15 * 60.0
# The newest runs that are looked at, and that are reported by one plan: a report reads the index.
_MOST_RUNS, _MOST_REPORTS = 50, 10
_API_S = 3.0
_API_ENDED = frozenset(("SUCCEEDED", "FAILED", "SKIPPED", "CANCELED"))
_LONGEST_ANSWER = 64 << 20
# The variables of kfp's client, and those that Kubernetes sets in the namespace of the API.
_ENDPOINT, _TOKEN, _TOKEN_FILE = (
    *("KF_PIPELINES_ENDPOINT", "KF_PIPELINES_TOKEN"),
    "KF_PIPELINES_SA_TOKEN_PATH",
)
_SERVICE = "ML_PIPELINE_SERVICE"

_log = logging.getLogger(__name__)


def settle_ended_runs(storage: Storage, *, run: str, now: float | None = None) -> dict[str, str]:
    """Remove the temporary files of runs that have ended, and write the reports that they lack.

    Nothing is published. Files of a run that may be in progress are not touched. An error of the
    dataset is logged: the run that calls this has work of its own.

    Args:
        storage: the dataset.
        run: the run that calls this.
        now: seconds since 1970; this machine's time by default.

    Returns:
        The runs that ended without a report, each with a line that says so.
    """
    try:
        ended, unreported = _ended_runs(storage, run, time.time() if now is None else now)
        for name in ended:
            remove_temporary(storage, name)
        lines = {}
        for name in unreported[:_MOST_REPORTS]:
            try:
                if _write_report(storage, name, ended[name]):
                    lines[name] = f"run {name} {ended[name]}; its report is in the dataset now"
            except C3DError as error:  # of this run's files: those of the others are as usual
                _log.warning("plan: run %s %s; it is not reported: %s", name, ended[name], error)
        return lines
    except C3DError as error:
        _log.warning("plan: earlier runs that ended are not looked at: %s", error)
        return {}


def _ended_runs(storage: Storage, run: str, now: float) -> tuple[dict[str, str], list[str]]:
    """Return the runs that have ended, each with how, and those without a report, newest first."""
    files: dict[str, set[str]] = {}
    written: dict[str, float] = {}

    def note(name: str, written_at: float) -> None:
        written[name] = max(written_at, written.get(name, written_at))

    for path, written_at in storage.times("runs").items():
        _, name, *rest = path.split("/")
        files.setdefault(name, set()).update(rest)
        note(name, written_at)
    planned = [name for name, of_run in files.items() if PLAN in of_run and name != run]
    unreported = [name for name in planned if SUMMARY not in files[name]]
    unreported = sorted(unreported, key=lambda name: (written[name], name), reverse=True)
    unreported = unreported[:_MOST_RUNS]
    with_temporary = set()
    prefixes = {temporary_prefix(name): name for name in planned}
    for half_written in _temporary_files(storage):
        if name := prefixes.get(f"{half_written.name.partition('~')[0]}~", ""):
            with_temporary.add(name)
            note(name, _time_of(half_written))
    candidates = dict.fromkeys([*unreported, *sorted(with_temporary)])
    if not candidates:
        return {}, []
    for path, written_at in storage.times(FOLDER).items():
        note(path.rpartition("/")[2].rsplit("-", 2)[0], written_at)
    states = _states(candidates)
    ended = {}
    for name in candidates:
        if states.get(name) in _API_ENDED:
            ended[name] = f"was ended from outside: Kubeflow Pipelines calls it {states[name]}"
        elif name not in states and now - written[name] > _SILENT_S:
            ended[name] = (
                f"was ended from outside: it wrote nothing after {instant(written[name])} UTC"
            )
    return ended, [name for name in unreported if name in ended]


def _temporary_files(storage: Storage) -> list[Path]:
    """Return the half-written files of all runs below a local folder; a bucket has none."""
    if not storage.is_local:
        return []
    folders = (storage.path_of(folder) for folder in ("shards", "clips", FOLDER, "."))
    return [path for folder in folders for path in folder.glob(f"{TEMPORARY_PREFIX}*~*")]


def _time_of(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # it was removed meanwhile, by a worker that lives
        return time.time()


def _write_report(storage: Storage, run: str, message: str) -> bool:
    """Write the report of a run that ended; return False where the run wrote one meanwhile."""
    reasons = failure_reasons(storage, run)
    parts = [message, *(f"{step}: {reason}" for step, reason in reasons.items())]
    summary = summary_of(storage, str(storage.uri), run, state="FAILED", message="; ".join(parts))
    if storage.size(run_file(run, SUMMARY)) is not None:
        return False
    for name, text in report_files(summary).items():
        storage.write(run_file(run, name), text)
    return True


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """The API does not redirect; a login page must not receive the token."""

    def redirect_request(self, *args: Any, **options: Any) -> None:
        return None


def _states(runs: Iterable[str]) -> dict[str, str]:
    """Return the states of runs as the API of Kubeflow Pipelines names them.

    A run that the API does not know is left out, such as a run on one machine. Where the API cannot
    be reached, or refuses, all are.
    """
    host = os.environ.get(_ENDPOINT, "").rstrip("/")
    if not host and (address := os.environ.get(f"{_SERVICE}_HOST")):
        address = f"[{address}]" if ":" in address else address
        host = f"http://{address}:{os.environ.get(f'{_SERVICE}_PORT', '8888')}"
    states: dict[str, str] = {}
    runs = [run for run in runs if _is_uuid(run)]
    if not host or not runs:
        return states
    headers = {"Accept": "application/json"}
    opener = urllib.request.build_opener(_NoRedirects)
    try:
        token, file = os.environ.get(_TOKEN), os.environ.get(_TOKEN_FILE)
        if token or file:
            headers["Authorization"] = f"Bearer {token or read_token(str(file))}"
        for run in runs:
            request = urllib.request.Request(f"{host}/apis/v2beta1/runs/{run}", headers=headers)
            try:
                with opener.open(request, timeout=_API_S) as answer:
                    states[run] = str(json.loads(answer.read(_LONGEST_ANSWER))["state"])
            except urllib.error.HTTPError as error:
                if error.code != 404:
                    raise
    except (OSError, ValueError, KeyError, TypeError, C3DError) as error:
        _log.info("plan: the API of Kubeflow Pipelines does not answer (%s)", error)
    return states


def _is_uuid(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False
