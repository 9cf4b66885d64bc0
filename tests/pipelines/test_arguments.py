"""Arguments of a wrong type to the public functions: one line that says what to give."""

import numpy as np
import pytest
from c3d_client import UsageError
from c3d_client.core.provenance import Provenance
from c3d_pipelines import (
    JobSettings,
    ManifestRow,
    dataset,
    do_shard,
    list_inputs,
    make_plan,
    read_manifest,
    run_local,
    write_manifest,
)
from c3d_pipelines.dataset.merge import merge

SETTINGS = JobSettings(out="out", run="one", provenance=Provenance({"clips": {}}))


def error_of(call):
    with pytest.raises(UsageError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 200
    return message


def test_one_path_where_a_list_is_expected_is_named(tmp_path):
    calls = {
        "paths is one path, 'dataset'; give a list of datasets": lambda value: merge(value, "out"),
        "rows is one path, 'dataset'; give a list of ManifestRow values": (
            lambda value: write_manifest(tmp_path / "m.csv", value)
        ),
        "rows is one path, 'dataset'; give a list of the ManifestRow values of a plan's shard": (
            lambda value: do_shard(SETTINGS, value, 0)
        ),
    }
    for expected, call in calls.items():
        assert error_of(lambda call=call: call("dataset")) == expected
        assert "is None; give a list" in error_of(lambda call=call: call(None))
    for call in (
        lambda: do_shard(SETTINGS, ["a.mp4"], 0),
        lambda: write_manifest(tmp_path / "m.csv", [ManifestRow("a", "a.mp4"), "b.mp4"]),
    ):
        assert "is a str; give a list of" in error_of(call)
    assert not list(tmp_path.iterdir())


def test_what_is_no_path_is_named(tmp_path):
    calls = {
        "list_inputs": list_inputs,
        "make_plan": lambda value: make_plan(value, ""),
        "make_plan, out": lambda value: make_plan(tmp_path, value),
        "read_manifest": read_manifest,
        "write_manifest": lambda value: write_manifest(value, []),
        "JobSettings": lambda value: JobSettings(out=value, run="one"),
        "run_local": lambda value: run_local({"videos": value, "out": str(tmp_path)}),
        "run_local, out": lambda value: run_local({"videos": str(tmp_path), "out": value}),
        "dataset.open": dataset.open,
        "merge": lambda value: merge([value], "out"),
    }
    for name, call in calls.items():
        for value, kind in (
            (["a.mp4"], "a list"),
            (b"videos", "bytes"),
            (None, "None"),
            (np.zeros((16, 112, 112, 3)), "an array of shape [16, 112, 112, 3]"),
        ):
            message = error_of(lambda call=call, value=value: call(value))
            assert f" is {kind}; give a path or URL, a str or os.PathLike" in message, name
    for value in ("videos", ["videos"], None):
        assert "give a dict of parameters" in error_of(lambda value=value: run_local(value))
    server = {"videos": str(tmp_path), "out": str(tmp_path), "server": "c3d:99999"}
    assert "its port is '99999'" in run_local(server).error


def test_paths_are_taken_as_well_as_text(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"x")
    [row] = list_inputs(tmp_path)
    assert row == list_inputs(str(tmp_path))[0]
    assert [planned.row for planned in make_plan(tmp_path, tmp_path / "out")] == [row]
    assert JobSettings(out=tmp_path, run="one").out == str(tmp_path)
