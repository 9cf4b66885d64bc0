"""The benchmarks' own code, and the texts that are written from the last run."""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from benchmarks import pipe, report
from benchmarks.measure import Measure
from benchmarks.peers import PEERS
from benchmarks.pipe import Child, ChildError

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"
CHILD = """
import os, sys
sys.path.insert(0, {tests!r})
from benchmarks.pipe import answer_requests
def fail(): raise ValueError("first line\\nsecond line")
def leave(): sys.stderr.write("last words\\n"); os._exit(3)
def wait():
    import time
    time.sleep(60)
def double(number): print("printed by a library"); return 2 * number
def start(): return {{"version": "1"}}, dict(double=double, fail=fail, leave=leave, wait=wait)
answer_requests(start)
"""


@pytest.fixture
def committed():
    return json.loads((ROOT / "BENCHMARKS.json").read_text())


def child(tmp_path, code=CHILD):
    command = [sys.executable, "-c", code.format(tests=str(TESTS))]
    return Child(command, log=tmp_path / "log")


def bench(**changes):
    """A run in which direct takes 0.2 s a clip, Winograd 0.1 and a peer 0.15."""

    def series(section, name, case, *values, unit="s a clip"):
        return {
            "section": section,
            "name": name,
            "case": case,
            "unit": unit,
            "values": list(values),
        }

    machine = {"cpu": "Some CPU", "flags": ["avx2", "avx512f"], "cores": 2, "memory_gb": 8}
    about = {"precision": "float32", "version": "1", "difference": 1e-6}
    data = {
        "provenance": {
            "date": "2026-01-01",
            "commit": "abc",
            "machine": {**machine, "system": "Linux"},
            "versions": {"Python": "3"},
        },
        "settings": {"width": 64, "threads": 2, "seed": 0, "served": report.WINOGRAD},
        "competitors": {
            name: about
            for name in (report.DIRECT, report.WINOGRAD, "ONNX Runtime", "PyTorch", report.ORIGINAL)
        },
        "not_run": {report.CHOSEN: "not installed", report.BF16: "no bfloat16"},
        "series": [
            series(report.NETWORK, report.DIRECT, "batch 8", 0.2, 0.2, 0.2),
            series(report.NETWORK, report.WINOGRAD, "batch 8", 0.1, 0.1, 0.2),
            series(report.NETWORK, "ONNX Runtime", "batch 8", 0.15, 0.13, 0.4),
            series(report.NETWORK, "PyTorch", "batch 8", 0.3, 0.3, 0.1),
            series(report.GEMM, "NumPy", "float32", 400.0, unit="GFLOP/s"),
            series(report.GEMM, "TensorFlow", "float32", 500.0, unit="GFLOP/s"),
            series(report.BARE, report.WINOGRAD, "batch 8", 0.1, 0.1),
            series(report.SERVED, report.WINOGRAD, "4 clients", 0.125, 0.125),
            series(report.END_TO_END, report.WINOGRAD, "320x240", 0.1, 0.1),
            series(report.ORIGINAL, "Keras predict", "320x240", 0.5, 0.4),
        ],
        "client": [],
    }
    return {**data, **changes}


def target_rows(data):
    return {row[0]: row[1:] for row in report.targets(data)}


def test_results_of_a_narrow_network_are_marked():
    data = {"bench": bench(settings={**bench()["settings"], "width": 8})}
    for text in (report.page(data), report.readme(data)):
        assert "a trial with a network of width 8, not C3D" in " ".join(text.split())
        assert "trial" not in report.page({"bench": bench()})


def test_page_and_readme_are_written_from_the_committed_results(committed):
    changed = "is not what BENCHMARKS.json gives; run `python -m benchmarks.report` in tests/"
    assert (ROOT / "BENCHMARKS.md").read_text() == report.page(committed), (
        f"BENCHMARKS.md {changed}"
    )
    (part,) = report.README_PART.findall((ROOT / "README.md").read_text())
    assert part == report.readme(committed), f"README.md {changed}"


def test_committed_results_are_of_the_full_network_and_have_every_target(committed):
    data = committed
    assert data["bench"]["settings"]["width"] == 64
    rows = target_rows(data)
    assert len(rows) >= 12
    assert "throughput of 1,000 videos over 10, which include the start" in rows
    for what, (_, measured, verdict, note) in rows.items():
        assert measured or note.startswith("not run: "), what
        assert verdict.startswith("not met: ") or verdict in ("met", ""), what


def test_targets_are_medians_of_ratios_within_a_round():
    rows = target_rows({"bench": bench()})
    best_peer = f"float32, batch 8: {report.WINOGRAD}, over the best peer, ONNX Runtime"
    assert rows[best_peer][:3] == ("at least 1.4", "1.5", "met")
    assert rows[best_peer][3] == "1.3 to 2, 3 rounds"
    assert rows["float32, batch 8: Winograd over direct, both ours"][1] == "2"
    served = rows["served over bare, 4 clients"]
    assert served[1:3] == ("0.8", "not met: 0.8 of 0.97")
    assert rows["end to end over the original way, 320x240"][1:3] == ("4.5", "met")


def test_cpu_without_avx512_has_the_bounds_of_avx2():
    data = bench()
    data["provenance"]["machine"]["flags"] = ["avx2"]
    bounds = [row[0] for what, row in target_rows({"bench": data}).items() if "best peer" in what]
    assert bounds == ["at least 1.7"]


def test_what_was_not_run_is_named_with_its_reason():
    rows = target_rows({"bench": bench()})
    assert rows["bfloat16, batch 8: ours over OpenVINO's"][3] == "not run: no bfloat16"
    assert rows["throughput, 10 to 1,000 videos"][3] == "not run: `make bench-scale`"
    page = report.page({"bench": bench()})
    for name, reason in bench()["not_run"].items():
        assert [name, reason] in [
            [cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines()
        ]


def test_fraction_of_the_peak_counts_direct_convolution():
    assert report.clip_flops(64) == pytest.approx(77e9, rel=0.002)
    page = report.page({"bench": bench()})
    # 77 GFLOP in 0.2 s and in 0.1 s, of 500 GFLOP/s.
    assert f"| {report.DIRECT:<{len(report.WINOGRAD)}} | 385     | 0.77" in page
    assert f"| {report.WINOGRAD} | 771     | 1.54" in page


def test_written_page_is_that_of_the_written_results(tmp_path):
    run = bench()
    run["competitors"] = dict(sorted(run["competitors"].items(), reverse=True))
    report.write(tmp_path, bench=run)
    data = json.loads((tmp_path / "BENCHMARKS.json").read_text())
    assert (tmp_path / "BENCHMARKS.md").read_text() == report.page(data)


def test_each_command_replaces_its_own_results(tmp_path):
    report.write(tmp_path, bench=bench())
    measure = Measure("throughput, 10 to 1,000 videos, distance from 1", 0.01, at_most=0.05)
    scale = {
        "provenance": bench()["provenance"],
        "text": "",
        "header": ["videos"],
        "rows": [["10"]],
        "measures": [asdict(measure)],
    }
    report.write(tmp_path, scale=scale)
    data = json.loads((tmp_path / "BENCHMARKS.json").read_text())
    assert data["bench"] == bench()
    assert target_rows(data)[measure.what][2] == "met"
    report.write(tmp_path, bench=bench(not_run={}))
    assert json.loads((tmp_path / "BENCHMARKS.json").read_text())["scale"]["rows"] == [["10"]]


def test_process_answers_requests_and_reports_errors_in_a_line(tmp_path):
    process = child(tmp_path)
    try:
        assert process.about == {"version": "1"}
        assert process.ask("double", number=4) == 8
        with pytest.raises(ChildError, match=r"^ValueError: first line$"):
            process.ask("fail")
        assert process.ask("double", number=5) == 10
        with pytest.raises(ChildError, match=r"^ended with code 3: last words$"):
            process.ask("leave")
    finally:
        process.close()


def test_process_that_does_not_answer_is_an_error(tmp_path, monkeypatch):
    process = child(tmp_path)
    try:
        monkeypatch.setattr(pipe, "TIMEOUT_S", 0.1)
        with pytest.raises(ChildError, match=r"^no answer within 0.1 s$"):
            process.ask("wait")
    finally:
        process.close()


def test_process_that_cannot_start_is_an_error(tmp_path):
    with pytest.raises(ChildError, match="ModuleNotFoundError"):
        child(tmp_path, "import no_such_module")


@pytest.mark.long
def test_benchmark_of_a_narrow_network_measures_everything(tmp_path):
    command = ["-m", "benchmarks.bench", "--width", "8", "--rounds", "1", "--out", str(tmp_path)]
    command += ["--only", "network", "end-to-end"]
    done = subprocess.run(
        [sys.executable, *command], cwd=TESTS, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    run = report.Run(json.loads((tmp_path / "BENCHMARKS.json").read_text())["bench"])
    expected = {report.DIRECT, report.WINOGRAD, report.BF16, report.NO_ONEDNN, *PEERS}
    assert {*run.names(report.NETWORK), *run.bench["not_run"]} == expected
    for name in run.names(report.NETWORK):
        assert run.bench["competitors"][name]["difference"] < 2e-2, name
        assert len(run.values(report.NETWORK, name, "batch 1")) == 1, name
    for size in report.SIZES:
        assert run.values(report.END_TO_END, run.served, size)
        assert run.values(report.ORIGINAL, "Keras predict", size)
    for clients in (1, 4, 16):
        assert run.values(report.SERVED, run.served, f"{clients} clients")
    assert "## End to end" in (tmp_path / "BENCHMARKS.md").read_text()


@pytest.mark.long
def test_benchmark_of_bfloat16_compares_all_forms_of_a_narrow_network(monkeypatch, capsys):
    from benchmarks import bfloat16  # imports TensorFlow

    monkeypatch.setattr(bfloat16, "ROUNDS", 1)
    assert bfloat16.main("random:0", "4") == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {cells[1].strip(): cells[2:-1] for line in lines if len(cells := line.split("|")) == 9}
    assert {*bfloat16.NETWORKS} < {*rows}
    differences = {name: float(rows[name][4]) for name in bfloat16.NETWORKS}
    assert differences.pop(bfloat16.REFERENCE) == 0
    direct = differences.pop(bfloat16.DIRECT)
    assert differences.pop("float32, Winograd's (used)") < 1e-5 < 1e-3 < direct
    assert all(direct < difference < 0.1 for difference in differences.values()), differences
