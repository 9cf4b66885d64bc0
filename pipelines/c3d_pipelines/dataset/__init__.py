"""The dataset that bulk runs write: its index, its cards, its reader, and merging.

import c3d_pipelines

videos = c3d_pipelines.dataset.open("dataset")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from c3d_pipelines.dataset.reader import Dataset, open

__all__ = ["Dataset", "open"]


def __getattr__(name: str) -> Any:
    # Loaded on first use: the reader imports other modules of this package.
    if name in __all__:
        from c3d_pipelines.dataset import reader

        return getattr(reader, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
