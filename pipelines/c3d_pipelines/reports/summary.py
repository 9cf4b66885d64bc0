"""Counts a run: its plan against the rows and the shards' reports that there are in the end.

The plan says what there must be. A row that this run was to make and did not is a failure of its
own kind, so that inputs = rows, always. All rows are worked on as columns: there may be millions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from c3d_client.stores import display

from c3d_pipelines.inputs.planned import DECISIONS, DO, DUPLICATE, PlannedRow
from c3d_pipelines.reports.histogram import CLIP_EDGES, DURATION_EDGES_S, Histogram
from c3d_pipelines.reports.run_summary import (
    PARTS,
    ROW_MISSING,
    SHARD_MISSING,
    Failure,
    RunSummary,
    ShardSummary,
)
from c3d_pipelines.shards.format import FAILED, OK, STATUSES
from c3d_pipelines.shards.report import ShardReport

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
        out=display(out),
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
        provenance=dict(provenance),
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
                    uri=display(one.row.uri),
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
    return _URL.sub(lambda url: display(url[0]), text)
