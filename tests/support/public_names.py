"""What the tests of public names ask of a package: what it loads, and what is undescribed."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path


def loaded_by(code: str) -> set[str]:
    """The top-level modules that a fresh interpreter holds after running the code."""
    told = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules)"],
        check=True,
        capture_output=True,
        text=True,
    )
    return {name.split(".")[0] for name in told.stdout.split()}


def undescribed_in(path: Path) -> list[str]:
    """The module and its public functions, classes and methods, those without a docstring."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    undescribed = [] if ast.get_docstring(tree) else [path.name]
    pending = [(path.stem, node) for node in tree.body]
    while pending:
        owner, node = pending.pop()
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef)) or node.name.startswith("_"):
            continue
        if not ast.get_docstring(node):
            undescribed.append(f"{owner}.{node.name}")
        if isinstance(node, ast.ClassDef):
            pending += [(f"{owner}.{node.name}", child) for child in node.body]
    return undescribed
