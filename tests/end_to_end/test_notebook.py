"""The notebook runs from top to bottom. CI runs it with the whole network (`make notebook`)."""

import base64
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.processes import LONG_S, servers_of

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "examples" / "features.ipynb"
# The command jupyter-execute, as the Makefile's verb runs it.
PROGRAM = "from nbclient.cli import main; main()"
EXECUTE = (sys.executable, "-c", PROGRAM, f"--startup_timeout={LONG_S:.0f}")


def cells_of(path):
    return {cell["id"]: cell for cell in json.loads(path.read_text())["cells"]}


def text_of(cell):
    return "".join(
        "".join(out["text"]) for out in cell["outputs"] if out["output_type"] == "stream"
    )


def pictures_of(cell):
    datas = [out["data"]["image/png"] for out in cell["outputs"] if "data" in out]
    return [cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), 1) for data in datas]


def test_notebook_has_no_outputs_and_no_state_of_a_run():
    for name, cell in cells_of(NOTEBOOK).items():
        assert cell["metadata"] == {}, name
        assert cell.get("outputs", []) == [], name
        assert cell.get("execution_count") is None, name


@pytest.mark.long
def test_notebook_runs_from_top_to_bottom(narrow_base, tmp_path):
    base = shutil.copytree(narrow_base, tmp_path / "c3d", copy_function=os.link)
    done = subprocess.run(
        [*EXECUTE, "--output", os.path.relpath(tmp_path / "run", NOTEBOOK.parent), NOTEBOOK],
        env={**os.environ, "C3D_NOTEBOOK": str(tmp_path / "files"), "C3D_MODEL": str(base)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert not servers_of(base)
    cells = cells_of(tmp_path / "run.ipynb")
    assert list(cells) == list(cells_of(NOTEBOOK))
    for name, cell in cells.items():
        for output in cell.get("outputs", []):
            assert output.get("name") != "stderr", (name, output)
    assert "one row for each clip (17, 4096)" in text_of(cells["shapes"])
    assert text_of(cells["neighbours"]).count("the clip at") == 4
    assert "to learn from" in text_of(cells["training"])
    for name in ("frames", "matrix", "curves"):
        (picture,) = pictures_of(cells[name])
        assert picture.std() > 10, f"{name} is empty"


def test_notebook_that_fails_fails_the_command(tmp_path):
    broken = json.loads(NOTEBOOK.read_text())
    broken["cells"] = [cell for cell in broken["cells"] if cell["id"] in ("title", "close")]
    path = tmp_path / "broken.ipynb"
    path.write_text(json.dumps(broken))
    done = subprocess.run([*EXECUTE, path], capture_output=True, text=True)
    assert done.returncode != 0
    assert "NameError" in done.stderr
