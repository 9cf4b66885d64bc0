"""What runs leave: published as one dataset, read back, compared and merged.

import c3d_pipelines

videos = c3d_pipelines.dataset.open("dataset")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from c3d_pipelines.dataset.reader import Dataset, open

__all__ = ["Dataset", "open"]


def __getattr__(name: str) -> Any:
    # On first use: others of this package want the index alone, and the reader wants them.
    if name in __all__:
        from c3d_pipelines.dataset import reader

        return getattr(reader, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
