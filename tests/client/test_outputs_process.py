"""What writing does to a process: what it loads, how it ends, how much memory it takes."""

import json
import subprocess
import sys

from support.sample_features import names_in


def run(code):
    """Run code in a process of its own; what it prints."""
    told = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, cwd="tests"
    )
    assert told.returncode == 0, told.stderr
    return told.stdout


def test_importing_loads_no_library_that_only_some_formats_need():
    loaded = run("import sys, c3d_client.outputs; print(*sys.modules)").split()
    assert not {"h5py", "pyarrow", "pandas", "cv2", "av", "grpc"} & set(loaded)


def test_a_full_disk_does_not_crash_the_process_at_its_end(tmp_path):
    """HDF5 does, where it sees that a write fails."""
    told = run(f"""
from support.sample_features import full_disk, sample_features
from c3d_client.outputs import OutputError, write_features
for name in ("h5", "activitynet", "parquet", "npz"):
    for size in (0, 100, 3000, 200_000):
        try:
            with full_disk(size):
                write_features({str(tmp_path / "film")!r}, sample_features(40), format=name)
        except OutputError:
            print("refused")
""")
    assert told.split() == ["refused"] * 16
    assert names_in(tmp_path) == []


def test_memory_does_not_grow_with_the_film(tmp_path):
    """A film of 5,000 clips is 82 MB, from a map of a file to a file and back to a map."""
    told = run(f"""
import json, numpy as np
from dataclasses import replace
from support.sample_features import sample_features
from c3d_client.outputs import FORMATS, read_features, write_features
from c3d_client.results import RowStore

def kept(field):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(field)) // 1024

def grown(action):
    with open("/proc/self/clear_refs", "w") as refs:
        refs.write("5")  # the peak starts anew
    before = kept("VmRSS")
    action()
    return kept("VmHWM") - before

store = RowStore()
chunk = sample_features(250).clip_features
for n in range(20):
    store.add(chunk + n)
film = replace(
    sample_features(1), clip_features=store.array(), clip_starts=np.arange(5000),
    clip_times_s=np.zeros((5000, 2)),
)
for name in [name for name in FORMATS if name != "caffe"]:  # which is a file a clip
    path = {str(tmp_path)!r} + "/film-" + name
    write_features(path, sample_features(3), format=name)  # what libraries take in any case
    print(json.dumps([
        name,
        grown(lambda: write_features(path, film, format=name)),
        grown(lambda: read_features(path, format=name)),
    ]))
""")
    for line in told.splitlines():
        name, writing, reading = json.loads(line)
        assert writing < 60, name
        assert reading < 60, name
