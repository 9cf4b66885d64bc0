"""Draw the bulk pipeline in docs/bulk.md from its compiled YAML: `make docs`."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parent / "bulk.md"
_BLOCK = re.compile(r"```mermaid\n.*?```", re.DOTALL)


def drawn(text: str) -> str:
    """The page with its diagram made anew."""
    from c3d_pipelines.kubeflow.compile import compiled_path
    from c3d_pipelines.kubeflow.diagram import to_mermaid

    diagram = to_mermaid(compiled_path("c3d-bulk-extraction"))
    page, found = _BLOCK.subn(lambda _: f"```mermaid\n{diagram.rstrip()}\n```", text)
    assert found == 1, f"{PAGE.name} has {found} Mermaid blocks"
    return page


if __name__ == "__main__":
    PAGE.write_text(drawn(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
