"""The dataset's card for people: ``README.md``, as Hugging Face reads it too.

Its text is `readme.md` beside this file; what it says of how to read the dataset runs in the tests.
"""

from __future__ import annotations

import json
from importlib import resources
from string import Template
from typing import Any

from c3d_pipelines.dataset.card import Card
from c3d_pipelines.reports.figures import length
from c3d_pipelines.shards.schema import NUMBERS

README_FILE = "README.md"

_WHAT = {
    "features": "fc6 after ReLU, the mean of the video's clips, L2-normalised: its length is 1",
    "classes": "the probability of each class, the mean of the video's clips; they add up to 1",
}
_OF_CLIP = {
    "features": "fc6 after ReLU, not normalised",
    "classes": "the probability of each class",
}
_TAIL = {
    "drop": "frames at the end that fill no clip are left out",
    "pad": "frames at the end that fill no clip get one that repeats its last frame",
    "loop": "frames at the end that fill no clip get one that repeats its frames from the first on",
}
_SHORT = {
    "error": "a video with fewer frames than one clip is `too_short`",
    "pad": "a video with fewer frames than one clip gets one that repeats its last frame",
    "loop": "a video with fewer frames than one clip gets one that repeats its frames",
}


def readme(card: Card, *, name: str) -> str:
    """A dataset card in Markdown: what a row is, how it was made, how to read it.

    Args:
        card: what the dataset is.
        name: of its folder, for the heading.
    """
    model, clips = card.provenance.get("model", {}), card.provenance.get("clips", {})
    weights = model.get("weights") or {}
    text = resources.files(__package__).joinpath("readme.md").read_text("utf-8")
    return Template(text).substitute(
        title=json.dumps(name),
        configs=_configs(card),
        name=" ".join(name.split()),
        answer=card.answer,
        videos=sum(card.videos.values()),
        statuses="\n".join(f"| `{status}` | {count} |" for status, count in card.videos.items()),
        duplicates=card.duplicates,
        ok=card.videos["ok"],
        clips=card.clips,
        length=length(card.duration_s),
        numbers=NUMBERS[card.answer],
        size=card.size,
        what=_WHAT[card.answer],
        of_clip=_OF_CLIP[card.answer],
        kept="" if card.clip_rows else " (this dataset keeps none)",
        meaning="\n".join(f"- {line}." for line in _meaning(clips)),
        weights=_weights(weights),
        precision=model.get("precision"),
        digest=card.provenance_digest,
        provenance=json.dumps(
            card.provenance.to_dict(), indent=1, sort_keys=True, ensure_ascii=False
        ),
    )


def _configs(card: Card) -> str:
    parts = [("index", "index.parquet\n  default: true")]
    if card.shards:
        parts.append(("videos", "shards/*.parquet"))
    if card.clip_rows:
        parts.append(("clips", "clips/*.parquet"))
    return "\n".join(f"- config_name: {name}\n  data_files: {files}" for name, files in parts)


def _meaning(clips: dict[str, Any]) -> list[str]:
    step, fps = clips.get("frame_step"), clips.get("fps")
    rate = f"taken at {fps:g} frames a second" if fps else "each frame of the file"
    steps = "consecutive frames" if step == 1 else f"one frame in {step}"
    return [
        f"A clip is {clips.get('frames')} frames: {steps}, {rate}",
        f"`start_frame` is the clip's first frame, counted from 0; the next clip starts "
        f"{clips.get('stride')} frames later",
        "`start_s` and `end_s` are seconds of presentation time from the video's first frame",
        f"The end: {_TAIL.get(str(clips.get('tail')), clips.get('tail'))}",
        f"Short ones: {_SHORT.get(str(clips.get('short')), clips.get('short'))}",
    ]


def _weights(weights: dict[str, Any]) -> str:
    if weights.get("random"):
        return "random ones, for trying things out: **the numbers mean nothing**"
    said = weights.get("known_as") or weights.get("source") or "not named"
    return f"{said}, sha256 `{weights.get('sha256')}`"
