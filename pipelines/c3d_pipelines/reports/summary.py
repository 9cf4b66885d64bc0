"""Summary of a run: its plan compared with the rows and the shard reports at its end.

An input without a row counts as a failure, so that inputs = rows, always. All work is done on
columns: a run may have millions of rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from c3d_client.core.errors import C3DError
from c3d_client.core.provenance import Provenance
from c3d_client.core.text import escape_controls
from c3d_client.core.uri import redact, redact_urls

from c3d_pipelines.dataset.card import versions_note
from c3d_pipelines.dataset.index import RESULT_COLUMNS, have_results, made_by
from c3d_pipelines.errors import RunError
from c3d_pipelines.inputs.plan import DECISIONS, DO, DONE, DUPLICATE, KNOWN_FAILURE, PlannedRow
from c3d_pipelines.parameters import allowed_failures
from c3d_pipelines.records import Record, added
from c3d_pipelines.shards.schema import (
    FAILED,
    OK,
    ROW_MISSING,
    SHARD_MISSING,
    STATUSES,
    ShardReport,
)
from c3d_pipelines.text import count

SUCCEEDED = "SUCCEEDED"
PARTS = ("decode_s", "wire_s", "queue_s", "compute_s")
# Edges of the histograms: a bin is about twice the one before, so that videos of seconds and of
# hours fit on one page.
DURATION_EDGES_S = (0, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400)
CLIP_EDGES = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000)

# Phrases of the verdict by answer: of one video, of several, of one without a result, and short
# forms of the last for one and for several.
_VERDICTS = {
    "features": (
        "has features",
        "have features",
        "does not have features",
        "does not",
        "do not",
    ),
    "classes": ("is classified", "are classified", "is not classified", "is not", "are not"),
}
_COLUMNS = (
    *("status", "error_type", "error_message", "size_bytes", "n_clips", "duration_s", "wall_s"),
    *PARTS,
    *("shard", "run"),
)


@dataclass(frozen=True)
class Failure(Record):
    """An input without numbers. Its status is never ``ok``; ``decision`` is the plan's decision."""

    video_id: str
    uri: str
    status: str
    error_type: str
    error_message: str
    decision: str

    @property
    def reason(self) -> str:
        """The error's message without the video's address, with which errors of videos begin."""
        return self.error_message.removeprefix(f"{escape_controls(self.uri)}: ")


@dataclass(frozen=True)
class ShardSummary(Record):
    """The result of one shard of the plan.

    Args:
        index: its number in the plan.
        name: its name in the dataset, or that of its first part; empty where it is missing.
        videos: its videos in the plan.
        ok: videos with status ok.
        clips: clips that the server computed for it.
        seconds: the time in which it was worked on; None where it is missing.
        bytes: size of its files; None where it is missing.
        retries: videos with requests that were sent again, as the server was away or full.
    """

    index: int
    name: str
    videos: int
    ok: int
    clips: int
    seconds: float | None
    bytes: int | None
    retries: int

    @property
    def missing(self) -> bool:
        """Whether the shard is not in the dataset."""
        return not self.name


@dataclass(frozen=True)
class RunSummary(Record):
    """The result of one run.

    Args:
        state: how the pipeline ended: ``SUCCEEDED``, ``FAILED``, ``CANCELLED``.
        message: why it did not succeed.
        run: the run's name.
        out: the dataset's folder or bucket, without credentials.
        server: the gRPC address of the server; empty where it is not known.
        answer: ``features`` or ``classes``.
        started_at, ended_at: start and end of the shards' work, in seconds since 1970, UTC; None
            without shards.
        counts: inputs by decision and, in each, by status, with all decisions and statuses.
        failures: every input that is not ok, in the plan's order.
        processed: videos that this run's shards did, whatever their status.
        clips: clips that the server computed in this run.
        video_s: the length of this run's ok videos, in seconds.
        video_wall_s: seconds from start to end of each video of this run, summed.
        seconds: ``decode_s``, ``wire_s``, ``queue_s``, ``compute_s``, summed over this run's
            videos; they overlap. None where the server does not report it, or nothing was done.
        retries: videos of this run that were retried.
        durations: lengths of all inputs where they are known, without duplicates, in seconds.
        clip_counts: clips of all ok inputs, without duplicates.
        shards: every shard of the plan, by index.
        bytes_in: size of this run's videos.
        bytes_out: size of the files that this run's shards wrote.
        provenance: how the dataset's numbers are made; empty where the run ended before preflight.
        made: inputs that are ok by the work of this run, and not of another run that did the same
            shard; None in a summary of release 0.1.0.
        kept: inputs that this run was to do and did not, and that have numbers of an earlier run in
            the dataset, perhaps of earlier content.
        readable: whether the dataset could be read; otherwise the counts are those of the plan.
        dataset: all rows of the dataset by status; None where they are not known.
        software: all versions of each library that made the dataset's numbers; None where they are
            not known.
        notes: lines of the plan about the inputs and the shards.
        allowed: how many videos of this run may end not ok before it fails; -1 for any number, None
            where it is not known.
        sent: as in :class:`~c3d_pipelines.settings.JobSettings`: the parameters of a run on a
            cluster; None for a run of ``c3d-pipelines run``.
        pca: path or address of the PCA that reduced the features; empty for none.
        given: as in :class:`~c3d_pipelines.settings.JobSettings`: the parameters of a run of
            ``c3d-pipelines run``; None where they are not known.
    """

    _noun: ClassVar[str] = "a run's summary"
    _error: ClassVar[type[C3DError]] = RunError
    state: str
    message: str
    run: str
    out: str
    server: str
    answer: str
    started_at: float | None
    ended_at: float | None
    counts: Mapping[str, Mapping[str, int]]
    failures: tuple[Failure, ...]
    processed: int
    clips: int
    video_s: float
    video_wall_s: float
    seconds: Mapping[str, float | None]
    retries: int
    durations: Histogram
    clip_counts: Histogram
    shards: tuple[ShardSummary, ...]
    bytes_in: int
    bytes_out: int
    provenance: Provenance
    made: int | None = added(None)
    kept: int = added(0)
    readable: bool = added(True)
    dataset: Mapping[str, int] | None = added(None)
    software: Mapping[str, Sequence[str]] | None = added(None)
    notes: tuple[str, ...] = added(())
    allowed: int | None = added(None)
    sent: Mapping[str, Any] | None = added(None)
    pca: str = added("")
    given: Mapping[str, Any] | None = added(None)

    @property
    def on_cluster(self) -> bool:
        """Whether the run was sent to a cluster."""
        return self.sent is not None

    @property
    def inputs(self) -> int:
        """The number of inputs in the plan."""
        return sum(self.decided(decision) for decision in DECISIONS)

    @property
    def ok(self) -> int:
        """The inputs that have numbers, of this run or an earlier one."""
        return self.ended(OK)

    @property
    def ok_of_run(self) -> int:
        """The inputs that have numbers by the work of this run."""
        return self.counts[DO][OK] if self.made is None else self.made

    @property
    def unsuccessful(self) -> int:
        """The inputs that this run was to do and that are not ok."""
        return self.decided(DO) - self.counts[DO][OK]

    @property
    def wall_s(self) -> float | None:
        """The time from the first shard's start to the last shard's end, in seconds."""
        if self.started_at is None or self.ended_at is None:
            return None
        return self.ended_at - self.started_at

    @property
    def missing_shards(self) -> tuple[ShardSummary, ...]:
        """The shards that are not in the dataset."""
        return tuple(shard for shard in self.shards if shard.missing)

    @property
    def known_seconds(self) -> dict[str, float]:
        """The values of ``seconds`` that are known, in the order of :data:`PARTS`."""
        values = {part: self.seconds.get(part) for part in PARTS}
        return {part: value for part, value in values.items() if value is not None}

    @property
    def verdict(self) -> str:
        """The result in one sentence: what the inputs have, and what this run added."""
        inputs, ok = self.inputs, self.ok
        if not inputs:
            ended = "" if self.state == SUCCEEDED else ": the run ended before there was a plan"
            rest = f"; the dataset has {self.dataset_text}" if self.dataset_text else ""
            return f"No videos were done{ended}{rest}"
        if not self.readable:
            return (
                f"The dataset cannot be read; {count(ok)} of {count(inputs)} videos "
                f"{self._phrases[0 if ok == 1 else 1]} as far as the plan shows"
            )
        sentence = self._inputs_text
        if not self.decided(DO):
            return f"{sentence}; there was nothing left to do"
        made, by_others = self.ok_of_run, self.counts[DO][OK] - self.ok_of_run
        if by_others:
            others = f"another run made {count(by_others)} of them"
            return f"{sentence}; this run added {count(made) if made else 'none'}: {others}"
        if self.state != SUCCEEDED and ok:
            return f"{sentence}; this run added {count(made) if made else 'none'}"
        return sentence

    @property
    def dataset_text(self) -> str:
        """How many rows of the dataset have numbers; empty without rows or where not known."""
        rows = sum(self.dataset.values()) if self.dataset else 0
        if self.dataset is None or not rows:
            return ""
        ok = self.dataset[OK]
        return f"{count(ok)} of {count(rows, 'video')} with {self._kind}"

    @property
    def gate_text(self) -> str:
        """How many videos of this run are not ok and how many may be; empty where not known."""
        if self.allowed is None or not self.decided(DO):
            return ""
        limit = "any number" if self.allowed < 0 else count(self.allowed)
        videos = count(self.decided(DO), "video")
        return f"{count(self.unsuccessful)} of {videos} of this run did not end ok; {limit} allowed"

    @property
    def versions_note(self) -> str:
        """One line where several versions of a library made the dataset's numbers, or empty."""
        return versions_note(self.software or {})

    @property
    def _kind(self) -> str:
        return "classes" if self.answer == "classes" else "features"

    @property
    def _phrases(self) -> tuple[str, str, str, str, str]:
        return _VERDICTS[self._kind]

    @property
    def _inputs_text(self) -> str:
        has, have, lacks, does_not, do_not = self._phrases
        inputs, ok, kept = self.inputs, self.ok, self.kept
        lost = inputs - ok - kept
        keep = f"{'keeps' if kept == 1 else 'keep'} the {self._kind} of an earlier run"
        if inputs == 1:
            return (
                f"The one video was not done; it {keep}"
                if kept
                else f"The one video {has if ok else lacks}"
            )
        if ok == inputs:
            return f"All {count(inputs)} videos {have}"
        if not ok and not kept:
            return f"None of the {count(inputs)} videos {has}"
        if not ok and not lost:
            return f"None of the {count(inputs)} videos was done; all {keep}"
        parts = [f"{count(ok)} of {count(inputs)} videos {has if ok == 1 else have}"]
        parts += [f"{count(kept)} {keep}"] if kept else []
        parts += [f"{count(lost)} {does_not if lost == 1 else do_not}"] if lost else []
        return "; ".join(parts)

    def decided(self, decision: str) -> int:
        """Return the number of inputs with a decision."""
        return sum(self.counts[decision].values())

    def ended(self, status: str) -> int:
        """Return the number of inputs with a status."""
        return sum(self.counts[decision][status] for decision in DECISIONS)

    def rate(self, number: float) -> float | None:
        """Return a number per second of this run; None where nothing was done."""
        return number / self.wall_s if self.wall_s else None

    def metrics(self) -> dict[str, float]:
        """Return the numbers to compare runs by, for Kubeflow's metrics, without unknown ones."""
        missing = len(self.missing_shards)
        known: dict[str, float | None] = {
            "inputs": self.inputs,
            **{status: self.ended(status) for status in STATUSES},
            "to_do": self.decided(DO),
            "ok_in_this_run": self.ok_of_run,
            "unsuccessful": self.unsuccessful,
            "done_earlier": self.decided(DONE),
            "known_failures": self.decided(KNOWN_FAILURE),
            "duplicates": self.decided(DUPLICATE),
            "shards": len(self.shards),
            "shards_missing": missing,
            "wall_s": self.wall_s,
            "videos_per_s": self.rate(self.processed),
            "clips_per_s": self.rate(self.clips),
            "video_hours_per_hour": self.rate(self.video_s),
            **self.seconds,
            "retries": self.retries,
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
        }
        return {name: float(value) for name, value in known.items() if value is not None}


@dataclass(frozen=True)
class Bin(Record):
    """The number of values from ``low`` to below ``high``; the last bin has no ``high``."""

    low: float
    high: float | None
    count: int


@dataclass(frozen=True)
class Histogram(Record):
    """The distribution of values.

    Args:
        bins: the bins from the first to the last with a value; none without values.
        count: the number of values.
        total: the sum of the values.
        median, p95, largest: of the values; None without values.
    """

    bins: tuple[Bin, ...]
    count: int
    total: float
    median: float | None
    p95: float | None
    largest: float | None

    @classmethod
    def of(cls, values: npt.NDArray[Any], edges: Sequence[float]) -> Histogram:
        """Count values ``[n]``, none below the first edge, in bins that begin at the edges."""
        if not len(values):
            return cls((), 0, 0.0, None, None, None)
        counts = np.histogram(values, [*edges, np.inf])[0].tolist()
        highs = [*edges[1:], None]
        filled = [index for index, number in enumerate(counts) if number]
        indexes = range(filled[0], filled[-1] + 1)
        median, p95 = np.percentile(values, [50, 95])
        return cls(
            bins=tuple(Bin(edges[index], highs[index], counts[index]) for index in indexes),
            count=len(values),
            total=float(values.sum(dtype=np.float64)),
            median=float(median),
            p95=float(p95),
            largest=float(values.max()),
        )


def summarise(
    *,
    out: str,
    run: str,
    planned: Sequence[PlannedRow],
    rows: pa.Table,
    reports: Sequence[ShardReport],
    provenance: Provenance,
    state: str,
    message: str,
    server: str = "",
    answer: str = "",
    begun: bool = True,
    readable: bool = True,
    dataset: Mapping[str, int] | None = None,
    software: Mapping[str, Sequence[str]] | None = None,
    notes: Sequence[str] = (),
    max_failed: int | None = None,
    max_failed_share: float = 0.0,
    sent: Mapping[str, Any] | None = None,
    pca: str = "",
    given: Mapping[str, Any] | None = None,
) -> RunSummary:
    """Return the summary of a run.

    Args:
        out: the dataset's folder or bucket.
        run: the run's name.
        planned: its plan, one row per input; none where the run failed before planning.
        rows: the index's rows of these inputs, of any run; other rows are ignored.
        reports: the reports of all shards that are done, of any run.
        provenance: how the numbers are made; empty where the run ended before preflight.
        state: how the pipeline ended: ``SUCCEEDED``, ``FAILED``, ``CANCELLED``.
        message: why it did not succeed.
        server: the gRPC address of the server.
        answer: ``features`` or ``classes``; the shards' answer by default.
        begun: whether the run came to its shards.
        readable: whether the dataset could be read, so that missing rows do not exist.
        dataset: all rows of the dataset by status; None where they are not known.
        software: all versions of each library that made the dataset's numbers.
        notes: lines of the plan about the inputs and the shards.
        max_failed, max_failed_share, sent, pca, given: as in the run's settings.
    """
    allowed = None
    if max_failed is not None:
        number = allowed_failures(
            max_failed=max_failed, max_failed_share=max_failed_share, inputs=len(planned)
        )
        allowed = -1 if number is None else number
    inputs = _Inputs(planned, rows, run=run, begun=begun, readable=readable)
    is_ok, is_single = inputs.statuses == OK, inputs.decisions != DUPLICATE
    durations, clips = inputs.numbers("duration_s"), inputs.numbers("n_clips")
    # A row without a shard represents an input that no shard did.
    of_run = inputs.fresh & made_by(inputs.rows, run)
    videos = inputs.rows.filter(pa.array(of_run))
    current = [report for report in reports if report.run == run]
    return RunSummary(
        state=state,
        message=redact_urls(message),
        run=run,
        out=redact(out),
        server=server,
        answer=answer or next((report.answer for report in reports), "features"),
        started_at=min((report.started_at for report in current), default=None),
        ended_at=max((report.ended_at for report in current), default=None),
        counts=inputs.counts(),
        failures=inputs.failures(),
        processed=int(of_run.sum()),
        clips=sum(report.clips_answered for report in current),
        video_s=float(np.nansum(durations[of_run & is_ok])),
        video_wall_s=pc.sum(videos["wall_s"]).as_py() or 0.0,
        seconds={part: pc.sum(videos[part]).as_py() for part in PARTS},
        retries=sum(report.retries for report in current),
        durations=Histogram.of(_known(durations[is_single]), DURATION_EDGES_S),
        clip_counts=Histogram.of(_known(clips[is_single & is_ok]), CLIP_EDGES),
        shards=inputs.shards(reports, run=run),
        bytes_in=int(pc.sum(videos["size_bytes"]).as_py() or 0),
        bytes_out=sum(report.video_bytes + report.clip_bytes for report in current),
        provenance=Provenance.from_dict(provenance),
        made=int((of_run & is_ok).sum()),
        kept=int(inputs.kept.sum()),
        readable=readable,
        dataset=dataset,
        software=software,
        notes=tuple(map(redact_urls, notes)),
        allowed=allowed,
        sent=sent,
        pca=pca,
        given=given,
    )


class _Inputs:
    """The plan's inputs, each with its row; all attributes are columns ``[n]``.

    A row of another run is not the result of an input that this run was to do, unless the other run
    did the same video meanwhile and it is ok.

    Args:
        planned, rows, run, readable: as for :func:`summarise`.
        begun: whether shards were begun.

    Attributes:
        planned: the plan.
        decisions: the plan's decisions.
        shard_of: the numbers of the inputs' shards, -1 without one.
        present: whether the input has a row.
        fresh: whether the row is of this run.
        kept: whether an input that was to be done was not, and has numbers of an earlier run.
        rows: the rows, null where there is none.
        statuses: the rows' statuses, ``failed`` where there is none.
    """

    def __init__(
        self,
        planned: Sequence[PlannedRow],
        rows: pa.Table,
        *,
        run: str,
        begun: bool,
        readable: bool,
    ) -> None:
        self.planned = planned
        self._begun, self._readable = begun, readable
        self.decisions = np.array([item.decision for item in planned], object)
        self.shard_of = np.array([item.shard for item in planned], np.int64)
        ids = pa.array([item.row.video_id for item in planned], pa.string())
        originals = pa.array([item.duplicate_of for item in planned], pa.string())
        known = rows["video_id"].combine_chunks()
        row_of = _positions(ids, known)
        found = rows.select(RESULT_COLUMNS).take(pa.array(row_of, mask=row_of < 0))
        is_result = _flags(pc.equal(found["run"], run)) | have_results(found, planned, run)
        is_stale = (row_of >= 0) & (self.decisions == DO) & ~is_result
        self.kept = is_stale & _flags(pc.equal(found["status"], OK))
        row_of[is_stale] = -1
        # A duplicate has the row of its original, which is in this plan or in an earlier one.
        original, earlier = _positions(originals, ids), _positions(originals, known)
        row_of_original = np.where(original >= 0, np.append(row_of, -1)[original], earlier)
        has_original = (original >= 0) | (row_of_original >= 0)
        is_duplicate = self.decisions == DUPLICATE
        row_of = np.where(is_duplicate & has_original, row_of_original, row_of)

        self.present = row_of >= 0
        self.fresh = self.present & (self.decisions == DO)
        self.rows = rows.select(_COLUMNS).take(pa.array(row_of, mask=~self.present))
        statuses = self.rows["status"].to_numpy(zero_copy_only=False)
        self.statuses = np.where(self.present, statuses, FAILED)
        if not readable:
            was_ok = self.decisions == DONE
            was_ok |= is_duplicate & np.append(was_ok, False)[original]
            self.statuses[was_ok] = OK

    def numbers(self, column: str) -> npt.NDArray[np.float64]:
        """Return a column of numbers, NaN where there is none."""
        return np.asarray(self.rows[column].cast(pa.float64()).to_numpy(), np.float64)

    def counts(self) -> dict[str, dict[str, int]]:
        """Return the number of inputs by decision and status."""
        return {
            decision: {
                status: int(((self.decisions == decision) & (self.statuses == status)).sum())
                for status in STATUSES
            }
            for decision in DECISIONS
        }

    def failures(self) -> tuple[Failure, ...]:
        """Return the inputs that are not ok, in the plan's order."""
        failed = np.flatnonzero(self.statuses != OK)
        errors = self.rows.select(("error_type", "error_message")).take(pa.array(failed))
        failures = []
        for index, error in zip(failed.tolist(), errors.to_pylist(), strict=True):
            item = self.planned[index]
            error_type, message = error["error_type"], error["error_message"]
            if not self.present[index]:
                error_type, message = self._missing(item)
            failures.append(
                Failure(
                    video_id=item.row.video_id,
                    uri=redact(item.row.uri),
                    status=self.statuses[index],
                    error_type=error_type,
                    error_message=redact_urls(message),
                    decision=item.decision,
                )
            )
        return tuple(failures)

    def shards(self, reports: Sequence[ShardReport], *, run: str) -> tuple[ShardSummary, ...]:
        """Return every shard of the plan, summed over the parts that were committed of it.

        Where this run has no part of a shard, the parts are those of other runs that hold the
        shard's videos.
        """
        to_do = self.shard_of >= 0
        planned = np.bincount(self.shard_of[to_do])
        ok = np.bincount(
            self.shard_of[to_do & self.fresh & (self.statuses == OK)], minlength=len(planned)
        )
        parts: dict[int, list[ShardReport]] = {}
        for report in reports:
            if report.run == run:
                parts.setdefault(report.index, []).append(report)
        of_others = {report.name: report for report in reports if report.run != run}
        pairs = zip(
            self.shard_of[self.fresh].tolist(),
            self.rows["shard"].filter(pa.array(self.fresh)).to_pylist(),
            strict=True,
        )
        for index, name in sorted({pair for pair in pairs if pair[1] in of_others}):
            if not any(part.run == run for part in parts.get(index, ())):
                parts.setdefault(index, []).append(of_others[name])
        summaries = []
        for index in np.flatnonzero(planned).tolist():
            done = sorted(parts.get(index, ()), key=lambda part: (part.ended_at, part.name))
            summaries.append(
                ShardSummary(
                    index=index,
                    name=done[0].name if done else "",
                    videos=int(planned[index]),
                    ok=int(ok[index]),
                    clips=sum(part.clips_answered for part in done),
                    seconds=time_of(done) if done else None,
                    bytes=sum(part.video_bytes + part.clip_bytes for part in done)
                    if done
                    else None,
                    retries=sum(part.retries for part in done),
                )
            )
        return tuple(summaries)

    def _missing(self, item: PlannedRow) -> tuple[str, str]:
        if not self._readable:
            return ROW_MISSING, "the dataset cannot be read, so its result is not known"
        if item.decision == DO:
            reason = "it did not end" if self._begun else "the run ended before its shards began"
            return SHARD_MISSING, f"its shard {item.shard} does not exist: {reason}"
        if item.decision == DUPLICATE:
            return ROW_MISSING, f"is the same as {item.duplicate_of}, which has no row"
        return ROW_MISSING, "its row of an earlier run is not in the dataset's index"


def time_of(parts: Sequence[ShardReport]) -> float:
    """Return the seconds in which at least one of several parts was worked on."""
    total, end = 0.0, float("-inf")
    for part in sorted(parts, key=lambda part: part.started_at):
        total += max(0.0, part.ended_at - max(part.started_at, end))
        end = max(end, part.ended_at)
    return total


def _positions(values: pa.Array, among: pa.Array) -> npt.NDArray[np.int64]:
    """Return the position of each value among others; -1 where it is not among them."""
    positions = pc.fill_null(pc.index_in(values, value_set=among), -1)
    return np.asarray(positions.to_numpy(zero_copy_only=False), np.int64)


def _flags(values: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    return np.asarray(pc.fill_null(values, False).to_numpy(), bool)


def _known(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    known: npt.NDArray[np.float64] = values[~np.isnan(values)]
    return known
