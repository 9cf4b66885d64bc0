"""What became of one run: every input counted, the failures, the speed, where the time went.

Made by `summary.py` from the plan, the index and the shards' reports when a run ends; kept as
`summary.json`, and shown by `page.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from c3d_client.errors import RunError

from c3d_pipelines.inputs.planned import DECISIONS, DO, DONE, DUPLICATE, KNOWN_FAILURE
from c3d_pipelines.records import values_of
from c3d_pipelines.reports.figures import count
from c3d_pipelines.reports.histogram import Histogram
from c3d_pipelines.shards.format import OK, STATUSES

SUCCEEDED = "SUCCEEDED"
PARTS = ("decode_s", "wire_s", "queue_s", "compute_s")
# Not the video's fault: nobody came to do it, or to say what became of it.
SHARD_MISSING, ROW_MISSING = "ShardMissing", "RowMissing"


@dataclass(frozen=True)
class Failure:
    """An input without numbers. The status is never ``ok``; ``decision`` is the plan's."""

    video_id: str
    uri: str
    status: str
    error_type: str
    error_message: str
    decision: str


@dataclass(frozen=True)
class ShardSummary:
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
class RunSummary:
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
    provenance: Mapping[str, Any]

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

    def to_json(self) -> str:
        """As text, for :meth:`from_json`; nothing secret is in it."""
        return json.dumps(asdict(self), indent=1, sort_keys=True)

    @classmethod
    def from_json(cls, text: str | bytes) -> RunSummary:
        """Read one back.

        Raises:
            RunError: it is not what :meth:`to_json` wrote.
        """
        try:
            values = values_of(text, cls)
            made = {
                "failures": tuple(Failure(**one) for one in values["failures"]),
                "shards": tuple(ShardSummary(**one) for one in values["shards"]),
                "durations": Histogram.from_dict(values["durations"]),
                "clip_counts": Histogram.from_dict(values["clip_counts"]),
            }
            return cls(**{**values, **made})
        except (ValueError, TypeError, KeyError) as error:
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
