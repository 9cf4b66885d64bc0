"""What says that a shard is done: written last, and believed only when it fits the files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from c3d_client.errors import ShardError

from c3d_pipelines.records import values_of
from c3d_pipelines.shards.format import STATUSES


@dataclass(frozen=True)
class ShardReport:
    """A shard that is done.

    Args:
        name: of the shard (see :func:`c3d_pipelines.shards.format.shard_name`).
        run: the run that did it.
        index: its number in that run's plan, from 0.
        answer: ``features`` or ``classes``.
        videos: rows in its file of videos.
        clips: rows in its file of clips; 0 where none are kept.
        counts: videos by status; all five are there.
        video_bytes: of the file of videos.
        clip_bytes: of the file of clips; 0 where there is none.
        started_at, ended_at: seconds since 1970, UTC.
        timings: seconds, summed over its videos: wall_s, decode_s, wire_s, queue_s, compute_s.
        clips_answered: clips that the server computed for it, kept or not.
        retries: videos that were tried again because the server or the store had gone away.
        provenance: what made the numbers.

    Raises:
        ShardError: its counts do not add up.
    """

    name: str
    run: str
    index: int
    answer: str
    videos: int
    clips: int
    counts: Mapping[str, int]
    video_bytes: int
    clip_bytes: int
    started_at: float
    ended_at: float
    timings: Mapping[str, float]
    clips_answered: int
    retries: int
    provenance: Mapping[str, Any]

    def __post_init__(self) -> None:
        if set(self.counts) != set(STATUSES) or sum(self.counts.values()) != self.videos:
            raise ShardError(
                f"shard {self.name}: its report counts {dict(self.counts)} of {self.videos} videos"
            )

    def to_json(self) -> str:
        """As text, for :meth:`from_json`."""
        return json.dumps(asdict(self), indent=1, sort_keys=True)

    @classmethod
    def from_json(cls, text: str | bytes) -> ShardReport:
        """Read one back.

        Raises:
            ShardError: it is not what :meth:`to_json` wrote.
        """
        try:
            values = values_of(text, cls)
            return cls(**values)
        except (ValueError, TypeError, AttributeError) as error:
            raise ShardError(f"a shard's report cannot be read ({error})") from error
