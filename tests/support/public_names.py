"""Helpers of the tests of public names: loaded modules, and names without a docstring."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path


def loaded_by(code: str) -> set[str]:
    """Return the top-level modules that a new interpreter has loaded after running the code."""
    process = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules)"],
        check=True,
        capture_output=True,
        text=True,
    )
    return {name.split(".")[0] for name in process.stdout.split()}


def undescribed_in(path: Path) -> list[str]:
    """Return the public functions, classes and methods of a module that have no docstring."""
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
