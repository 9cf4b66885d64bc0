"""The classification of a video as JSON and CSV.

Numbers are written with all digits, so that reading them returns the same float64; a clip's
probability is the server's float32. The functions write to open text files; a file for CSV must be
opened with ``newline=""``, as the csv module requires.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from dataclasses import asdict
from itertools import chain
from typing import IO, TYPE_CHECKING, Any

from c3d_client.core.files import iter_rows
from c3d_client.core.text import escape_bytes
from c3d_client.results import ClassScore, top_classes

if TYPE_CHECKING:
    from c3d_client.results import VideoClassification

CSV_HEADER = (
    *("video", "clip", "start_frame", "start_s", "end_s"),
    *("rank", "index", "label", "probability"),
)


def as_json(
    source_name: str, classification: VideoClassification, *, top_k: int = 5
) -> dict[str, Any]:
    """Return a classification as dicts, lists, text, numbers and None.

    Keys: ``video``, ``frames``, ``width``, ``height`` and ``fps`` (None where unknown), ``top``,
    ``clips`` (each ``start_frame``, ``start_s``, ``end_s``, ``top``), ``provenance``, ``timings``.
    Times that are not known are None.
    A ``top`` is a list of ``index``, ``label``, ``probability``, best first.

    Raises:
        UsageError: top_k is below 1.
    """
    video = classification.provenance.get("video") or {}
    return {
        "video": escape_bytes(source_name),
        **{key: video.get(key) for key in ("frames", "width", "height", "fps")},
        "top": [
            asdict(score)
            for score in top_classes(
                classification.probabilities, classification.labels, top_k=top_k
            )
        ],
        "clips": [
            {
                "start_frame": start_frame,
                "start_s": _known(start_s),
                "end_s": _known(end_s),
                "top": [asdict(score) for score in scores],
            }
            for start_frame, start_s, end_s, scores in _clips(classification, top_k=top_k)
        ],
        "provenance": classification.provenance,
        "timings": asdict(classification.timings),
    }


def write_json(
    file: IO[str],
    source_name: str,
    classification: VideoClassification,
    *,
    top_k: int = 5,
) -> None:
    """Write :func:`as_json` as a JSON Line."""
    document = as_json(source_name, classification, top_k=top_k)
    # ASCII survives every encoding.
    file.write(json.dumps(document, allow_nan=False) + "\n")


def csv_rows(
    source_name: str, classification: VideoClassification, *, top_k: int = 5
) -> Iterator[tuple[str | int | float, ...]]:
    """Yield rows with the columns of :data:`CSV_HEADER`, one for each named class.

    The best classes of the whole video come first, with an empty ``clip`` and the span of all
    clips, then those of each clip, counted from 0. ``rank`` counts from 1; times are seconds, and
    empty where they are not known.

    Raises:
        UsageError: top_k is below 1.
    """
    times_s = classification.clip_times_s
    whole = (
        int(classification.clip_starts[0]),
        float(times_s[0, 0]),
        float(times_s[:, 1].max()),
        top_classes(classification.probabilities, classification.labels, top_k=top_k),
    )
    clips: Iterator[tuple[str | int, Any]] = enumerate(_clips(classification, top_k=top_k))
    for clip, (start_frame, start_s, end_s, scores) in chain([("", whole)], clips):
        for rank, score in enumerate(scores, start=1):
            times = (_known(start_s, ""), _known(end_s, ""))
            span = (escape_bytes(source_name), clip, start_frame, *times)
            yield (*span, rank, score.index, escape_bytes(score.label), score.probability)


def write_csv_header(file: IO[str]) -> None:
    """Write the names of the columns: once in a file, before its first video."""
    _writer(file).writerow(CSV_HEADER)


def write_csv(
    file: IO[str], source_name: str, classification: VideoClassification, *, top_k: int = 5
) -> None:
    """Write the rows of one video."""
    _writer(file).writerows(csv_rows(source_name, classification, top_k=top_k))


def _known(time_s: float, other: Any = None) -> Any:
    """Return a time; the other value instead of NaN, which JSON does not have."""
    return other if math.isnan(time_s) else time_s


def _writer(file: IO[str]) -> Any:
    # All text in quotes: Python before 3.13 writes a lone carriage return without quotes, and
    # readers would end the row there.
    return csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)


def _clips(
    classification: VideoClassification, *, top_k: int
) -> Iterator[tuple[int, float, float, tuple[ClassScore, ...]]]:
    """Yield each clip's first frame, start and end in seconds, and best classes."""
    for start, (start_s, end_s), row in zip(
        classification.clip_starts,
        classification.clip_times_s,
        iter_rows(classification.clip_probabilities),
        strict=True,
    ):
        scores = top_classes(row, classification.labels, top_k=top_k)
        yield int(start), float(start_s), float(end_s), scores
