"""Counts a run: its plan against the rows and the shards' reports that there are in the end.

The plan says what there must be. A row that this run was to make and did not is a failure of its
own kind, so that inputs = rows, always. All rows are worked on as columns: there may be millions.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from c3d_client.core.provenance import Provenance
from c3d_client.core.uri import redact

from c3d_pipelines.errors import RunError
from c3d_pipelines.inputs.plan import DECISIONS, DO, DONE, DUPLICATE, KNOWN_FAILURE, PlannedRow
from c3d_pipelines.records import Record
from c3d_pipelines.reports.figures import count
from c3d_pipelines.shards.schema import FAILED, OK, STATUSES, ShardReport

SUCCEEDED = "SUCCEEDED"
PARTS = ("decode_s", "wire_s", "queue_s", "compute_s")
# Not the video's fault: nobody came to do it, or to say what became of it.
SHARD_MISSING, ROW_MISSING = "ShardMissing", "RowMissing"


@dataclass(frozen=True)
class Failure(Record):
    """An input without numbers. The status is never ``ok``; ``decision`` is the plan's."""

    video_id: str
    uri: str
    status: str
    error_type: str
    error_message: str
    decision: str


@dataclass(frozen=True)
class ShardSummary(Record):
    """What became of one shard of the plan.

    Args:
        index: its number in the plan.
        name: its name in the dataset; empty where it is missing.
        videos: that it was to do.
        ok: of those, done well.
        clips: that the server computed for it.
        seconds: from its start to its end; None where it is missing.
        bytes: of its files; None where it is missing.
        retries: videos that were tried again because the server or the store had gone away.
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
        """Whether it left nothing."""
        return not self.name


@dataclass(frozen=True)
class RunSummary(Record):
    """What became of one run.

    Args:
        state: as the pipeline ended: ``SUCCEEDED``, ``FAILED``, ``CANCELLED``.
        message: why, where it did not succeed.
        run: the run's name.
        out: the dataset's folder or bucket, without credentials.
        server: the gRPC address that was asked; empty where nobody said.
        answer: ``features`` or ``classes``.
        started_at, ended_at: of the shards' work, in seconds since 1970, UTC; None without any.
        counts: inputs by decision and, in each, by status; all are there.
        failures: every input that is not ok, in the plan's order.
        processed: videos that this run's shards did, well or not.
        clips: that the server computed in this run.
        video_s: length of the videos that this run did well, in seconds.
        video_wall_s: seconds from start to end of each video of this run, summed.
        seconds: ``decode_s``, ``wire_s``, ``queue_s``, ``compute_s``, summed over this run's
            videos; they overlap. None where the server does not tell, or nothing was done.
        retries: videos of this run that were tried again.
        durations: of all inputs whose length is known, duplicates left out, in seconds.
        clip_counts: clips of all inputs that are ok, duplicates left out.
        shards: every shard of the plan, by index.
        bytes_in: of the videos that this run did.
        bytes_out: of the files that this run's shards wrote.
        provenance: what makes the dataset's numbers; empty where the run did not get so far.
    """

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

    @property
    def inputs(self) -> int:
        """All inputs of the plan."""
        return sum(self.decided(decision) for decision in DECISIONS)

    @property
    def ok(self) -> int:
        """Inputs that have their numbers, whichever run made them."""
        return self.ended(OK)

    @property
    def unsuccessful(self) -> int:
        """Inputs that this run was to do and that are not ok."""
        return self.decided(DO) - self.counts[DO][OK]

    @property
    def wall_s(self) -> float | None:
        """From the first shard's start to the last one's end, in seconds."""
        if self.started_at is None or self.ended_at is None:
            return None
        return self.ended_at - self.started_at

    @property
    def missing_shards(self) -> tuple[ShardSummary, ...]:
        """The shards that left nothing."""
        return tuple(shard for shard in self.shards if shard.missing)

    @property
    def verdict(self) -> str:
        """All of it in one sentence."""
        has, have = ("has features", "have features")
        if self.answer == "classes":
            has, have = ("is classified", "are classified")
        inputs, ok, lost = self.inputs, self.ok, self.inputs - self.ok
        if not inputs:
            ended = "" if self.state == SUCCEEDED else ": the run ended before there was a plan"
            return f"No videos were done{ended}"
        if inputs == 1:
            said = f"The one video {has if ok else _denied(has)}"
        elif not lost:
            said = f"All {count(inputs)} videos {have}"
        elif not ok:
            said = f"None of the {count(inputs)} videos {has}"
        else:
            refused = _denied(has if lost == 1 else have, short=True)
            said = f"{count(ok)} of {count(inputs)} videos {has if ok == 1 else have}"
            said += f"; {count(lost)} {refused}"
        return said if self.decided(DO) else f"{said}; there was nothing left to do"

    def decided(self, decision: str) -> int:
        """Inputs with this decision of the plan."""
        return sum(self.counts[decision].values())

    def ended(self, status: str) -> int:
        """Inputs with this status."""
        return sum(self.counts[decision][status] for decision in DECISIONS)

    def rate(self, number: float) -> float | None:
        """So much of this run in a second; None where nothing was done."""
        return number / self.wall_s if self.wall_s else None

    def metrics(self) -> dict[str, float]:
        """The numbers to compare runs by, for Kubeflow's metrics; what is unknown is left out."""
        missing = len(self.missing_shards)
        known: dict[str, float | None] = {
            "inputs": self.inputs,
            **{status: self.ended(status) for status in STATUSES},
            "to_do": self.decided(DO),
            "ok_in_this_run": self.counts[DO][OK],
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

    @classmethod
    def from_json(cls, text: str | bytes) -> RunSummary:
        """Read a summary that :meth:`to_json` wrote, in this or another release.

        Raises:
            RunError: the text is not a run's summary.
        """
        try:
            return cls.from_dict(json.loads(text))
        except (ValueError, TypeError, AttributeError) as error:
            raise RunError(f"a run's summary cannot be read ({error})") from error


def _denied(does: str, *, short: bool = False) -> str:
    """``has features`` as ``does not have features`` or, short, ``does not``."""
    verb, what = does.split(" ", 1)
    auxiliary, rest = {
        "has": ("does not", f" have {what}"),
        "have": ("do not", f" have {what}"),
        "is": ("is not", f" {what}"),
        "are": ("are not", f" {what}"),
    }[verb]
    return auxiliary if short else auxiliary + rest


# Films of seconds and of hours fit on one page when a bin is about twice the one before it.
DURATION_EDGES_S = (0, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400)
CLIP_EDGES = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000)


@dataclass(frozen=True)
class Bin(Record):
    """The values from ``low`` up to but without ``high``; the last bin has no ``high``."""

    low: float
    high: float | None
    count: int


@dataclass(frozen=True)
class Histogram(Record):
    """How values are spread.

    Args:
        bins: from the first that holds a value to the last that does; none without values.
        count: of the values.
        total: their sum.
        median, p95, largest: of the values; None without any.
    """

    bins: tuple[Bin, ...]
    count: int
    total: float
    median: float | None
    p95: float | None
    largest: float | None

    @classmethod
    def of(cls, values: npt.NDArray[Any], edges: Sequence[float]) -> Histogram:
        """Count values ``[n]``, none below the first edge, into bins that begin at the edges."""
        if not len(values):
            return cls((), 0, 0.0, None, None, None)
        counts = np.histogram(values, [*edges, np.inf])[0].tolist()
        highs = [*edges[1:], None]
        filled = [place for place, number in enumerate(counts) if number]
        kept = range(filled[0], filled[-1] + 1)
        median, p95 = np.percentile(values, [50, 95])
        return cls(
            bins=tuple(Bin(edges[place], highs[place], counts[place]) for place in kept),
            count=len(values),
            total=float(values.sum(dtype=np.float64)),
            median=float(median),
            p95=float(p95),
            largest=float(values.max()),
        )


__all__ = ["RunSummary", "summarise"]

_USED = (
    *("status", "error_type", "error_message", "size_bytes", "n_clips", "duration_s", "wall_s"),
    *PARTS,
    *("shard", "run"),
)
_URL = re.compile(r"[A-Za-z][\w+.-]+://[^\s'\"]+")


def summarise(
    *,
    out: str,
    run: str,
    planned: Sequence[PlannedRow],
    rows: pa.Table,
    reports: Sequence[ShardReport],
    provenance: Mapping[str, Any],
    state: str,
    message: str,
    server: str = "",
    answer: str = "",
) -> RunSummary:
    """Count a run.

    Args:
        out: the dataset's folder or bucket.
        run: the run's name.
        planned: its plan, one row an input; none where it failed before there was one.
        rows: the index's rows of these inputs, whichever run made them; others do not matter.
        reports: of the shards that are done; others do not matter.
        provenance: what makes the numbers; empty where nobody asked.
        state: as the pipeline ended: ``SUCCEEDED``, ``FAILED``, ``CANCELLED``.
        message: why, where it did not succeed.
        server: the gRPC address that is asked.
        answer: ``features`` or ``classes``; the shards' by default.
    """
    inputs = _Inputs(planned, rows, run=run, reports=reports)
    well, single = inputs.statuses == OK, inputs.decisions != DUPLICATE
    durations, clips = inputs.numbers("duration_s"), inputs.numbers("n_clips")
    # What is in no shard was put into the index for what nobody did.
    done = pc.and_(pc.equal(inputs.rows["run"], run), pc.not_equal(inputs.rows["shard"], ""))
    mine = inputs.fresh & _flags(done)
    videos = inputs.rows.filter(pa.array(mine))
    names = set(pc.unique(videos["shard"]).to_pylist())
    now = [report for report in reports if report.name in names]
    return RunSummary(
        state=state,
        message=_without_secrets(message),
        run=run,
        out=redact(out),
        server=server,
        answer=answer or next((report.answer for report in reports), "features"),
        started_at=min((report.started_at for report in now), default=None),
        ended_at=max((report.ended_at for report in now), default=None),
        counts=inputs.counts(),
        failures=inputs.failures(),
        processed=int(mine.sum()),
        clips=sum(report.clips_answered for report in now),
        video_s=float(np.nansum(durations[mine & well])),
        video_wall_s=pc.sum(videos["wall_s"]).as_py() or 0.0,
        seconds={part: pc.sum(videos[part]).as_py() for part in PARTS},
        retries=sum(report.retries for report in now),
        durations=Histogram.of(_known(durations[single]), DURATION_EDGES_S),
        clip_counts=Histogram.of(_known(clips[single & well]), CLIP_EDGES),
        shards=inputs.shards({report.name: report for report in reports}),
        bytes_in=int(pc.sum(videos["size_bytes"]).as_py() or 0),
        bytes_out=sum(report.video_bytes + report.clip_bytes for report in now),
        provenance=Provenance.from_dict(provenance),
    )


class _Inputs:
    """The plan's inputs, each with the row that counts for it; columns ``[n]``.

    Args:
        planned, rows, run, reports: as :func:`summarise` has them.

    A row that another run left says nothing of what this run was to do; unless the other did the
    same shard meanwhile, and the video well.
    """

    def __init__(
        self,
        planned: Sequence[PlannedRow],
        rows: pa.Table,
        *,
        run: str,
        reports: Sequence[ShardReport],
    ) -> None:
        self.planned = planned
        self.decisions = np.array([one.decision for one in planned], object)
        self.shard_of = np.array([one.shard for one in planned], np.int64)
        ids = pa.array([one.row.video_id for one in planned], pa.string())
        originals = pa.array([one.duplicate_of for one in planned], pa.string())
        known = rows["video_id"].combine_chunks()
        done = pa.array([report.name for report in reports], pa.string())
        elsewhere = pc.and_(pc.is_in(rows["shard"], value_set=done), pc.equal(rows["status"], OK))
        stale = ~_flags(pc.or_(pc.equal(rows["run"], run), elsewhere))

        at = _places(ids, known)
        at[_found(at) & (self.decisions == DO) & np.append(stale, False)[at]] = -1
        # A duplicate is what its original is: in this plan, or in an earlier one.
        twice = self.decisions == DUPLICATE
        there, earlier = _places(originals, ids), _places(originals, known)
        of_original = np.where(_found(there), np.append(at, -1)[there], earlier)
        at = np.where(twice & (_found(there) | _found(of_original)), of_original, at)

        self.present = _found(at)
        self.fresh = self.present & (self.decisions == DO)
        self.rows = rows.select(_USED).take(pa.array(at, mask=~self.present))
        found = self.rows["status"].to_numpy(zero_copy_only=False)
        self.statuses = np.where(self.present, found, FAILED)

    def numbers(self, column: str) -> npt.NDArray[np.float64]:
        """A column of numbers, NaN where there is none."""
        return np.asarray(self.rows[column].cast(pa.float64()).to_numpy(), np.float64)

    def counts(self) -> dict[str, dict[str, int]]:
        """Inputs by decision and status."""
        return {
            decision: {
                status: int(((self.decisions == decision) & (self.statuses == status)).sum())
                for status in STATUSES
            }
            for decision in DECISIONS
        }

    def failures(self) -> tuple[Failure, ...]:
        """All that are not ok, in the plan's order."""
        failed = np.flatnonzero(self.statuses != OK)
        told = self.rows.select(("error_type", "error_message")).take(pa.array(failed))
        made = []
        for place, said in zip(failed.tolist(), told.to_pylist(), strict=True):
            one = self.planned[place]
            error_type, message = said["error_type"], said["error_message"]
            if not self.present[place]:
                error_type, message = self._missing(one)
            made.append(
                Failure(
                    video_id=one.row.video_id,
                    uri=redact(one.row.uri),
                    status=self.statuses[place],
                    error_type=error_type,
                    error_message=_without_secrets(message),
                    decision=one.decision,
                )
            )
        return tuple(made)

    def shards(self, reports: Mapping[str, ShardReport]) -> tuple[ShardSummary, ...]:
        """Every shard of the plan; one counts as done by the rows that lie in it."""
        to_do = self.shard_of >= 0
        planned = np.bincount(self.shard_of[to_do])
        well = np.bincount(
            self.shard_of[to_do & self.fresh & (self.statuses == OK)], minlength=len(planned)
        )
        names = dict(
            zip(
                self.shard_of[self.fresh].tolist(),
                self.rows["shard"].filter(pa.array(self.fresh)).to_pylist(),
                strict=True,
            )
        )
        made = []
        for index in np.flatnonzero(planned).tolist():
            report = reports.get(names.get(index, ""))
            made.append(
                ShardSummary(
                    index=index,
                    name=report.name if report else "",
                    videos=int(planned[index]),
                    ok=int(well[index]),
                    clips=report.clips_answered if report else 0,
                    seconds=report.ended_at - report.started_at if report else None,
                    bytes=report.video_bytes + report.clip_bytes if report else None,
                    retries=report.retries if report else 0,
                )
            )
        return tuple(made)

    def _missing(self, one: PlannedRow) -> tuple[str, str]:
        if one.decision == DO:
            return SHARD_MISSING, f"its shard {one.shard} is not there: it did not come to its end"
        if one.decision == DUPLICATE:
            return ROW_MISSING, f"is the same as {one.duplicate_of}, which has no row"
        return ROW_MISSING, "its row of an earlier run is not in the dataset's index"


def _places(values: pa.Array, among: pa.Array) -> npt.NDArray[np.int64]:
    """Where each value is among others; -1 where it is not."""
    found = pc.fill_null(pc.index_in(values, value_set=among), -1)
    return np.asarray(found.to_numpy(zero_copy_only=False), np.int64)


def _found(places: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    return places >= 0


def _flags(values: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    return np.asarray(pc.fill_null(values, False).to_numpy(), bool)


def _known(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    known: npt.NDArray[np.float64] = values[~np.isnan(values)]
    return known


def _without_secrets(text: str) -> str:
    """A message; libraries put whole URLs into theirs."""
    return _URL.sub(lambda url: redact(url[0]), text)
