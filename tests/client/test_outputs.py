"""Features on disk in every format: complete, readable, and never half written."""

import json
import os
import subprocess
import sys
import threading
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from c3d_client.core.errors import OutputError, UsageError
from c3d_client.outputs import (
    FORMATS,
    NPZ_KEYS,
    format_of,
    output_path,
    prepare_folder,
    read_features,
    read_npz,
    read_provenance,
    write_features,
    write_npz,
)
from support.errors import error_of
from support.sample_features import (
    PROVENANCE,
    format_path,
    full_disk,
    names_in,
    same_features,
    sample_features,
)

LOSSLESS = [name for name, entry in FORMATS.items() if entry.lossless]


def content_of(path):
    """All bytes of a file and its sidecar, or of a folder, by name."""
    files = path.iterdir() if path.is_dir() else path.parent.glob(f"{path.name}*")
    return {file.name: file.read_bytes() for file in sorted(files)}


def expected_names(path):
    """The names of a video's file and of its sidecar."""
    sidecar = FORMATS[path.parent.name].sidecar_suffix
    return [path.name, *([path.name + sidecar] if sidecar else [])]


class TestWriting:
    def test_lossless_formats_return_the_same_bits(self, tmp_path):
        for name in LOSSLESS:
            path = format_path(tmp_path, name)
            for features in (
                *map(sample_features, (1, 3, 600)),
                sample_features(clip_times_s=np.full((3, 2), np.nan)),
            ):
                write_features(path, features)
                assert same_features(read_features(path), features), (name, features)

    def test_provenance_is_read_without_the_clips(self, tmp_path):
        for name in FORMATS:
            path = format_path(tmp_path, name)
            write_features(path, sample_features())
            assert read_provenance(path) == PROVENANCE, name

    def test_provenance_fields_of_other_releases_are_kept(self, tmp_path):
        provenance = {**PROVENANCE, "layer": "fc7", "future": {"field": [1, None, "ü"]}}
        provenance["model"] = {**PROVENANCE["model"], "quantised": True}
        for name in FORMATS:
            path = format_path(tmp_path, name)
            write_features(path, sample_features(provenance=provenance))
            assert read_provenance(path) == provenance, name
            read = read_features(path).provenance
            assert {**read, **provenance} == read, name

    def test_format_is_chosen_by_suffix_or_by_name(self, tmp_path):
        for name in FORMATS:
            path = format_path(tmp_path, name)
            other = path.with_name("features.of-a-video")
            write_features(path, sample_features())
            write_features(other, sample_features(), format=name)
            assert same_features(
                replace(read_features(path), provenance={}),
                replace(read_features(other, format=name), provenance={}),
            ), name
            assert format_of(path) is FORMATS[name]

    def test_only_the_result_is_left_and_replaces_an_earlier_one(self, tmp_path):
        for name in FORMATS:
            path = format_path(tmp_path, name)
            write_features(path, sample_features(40, seed=1))
            write_features(path, sample_features(seed=2))
            assert names_in(path.parent) == expected_names(path)
            again = path.with_name(f"again{FORMATS[name].suffix}")
            write_features(again, sample_features(seed=2))
            if name != "parquet":  # its bytes may differ
                assert list(content_of(path).values()) == list(content_of(again).values()), name
            assert len(read_features(path).clip_starts) == (32 if name == "sultani" else 3), name

    def test_full_disk_is_an_error_and_keeps_the_earlier_result(self, tmp_path):
        for name in FORMATS:
            path = format_path(tmp_path, name)
            write_features(path, sample_features(40))
            before = content_of(path)
            # A file of the format caffe has 16,404 bytes.
            for size in (0, 10_000) if name == "caffe" else (0, 10_000, 300_000):
                with full_disk(size):
                    error = error_of(OutputError, write_features, path, sample_features(40, seed=1))
                assert "too large" in str(error), (name, size)
                assert error.path == str(path)
                assert content_of(path) == before, (name, size)
                assert names_in(path.parent) == expected_names(path), (name, size)

    def test_other_files_and_folders_are_not_replaced(self, tmp_path):
        for name in FORMATS:
            path = format_path(tmp_path, name)
            path.mkdir()
            (path / "notes.txt").touch()
            message = str(error_of(OutputError, write_features, path, sample_features()))
            assert "cannot be written" in message, name
            assert "None" not in message, name
            assert names_in(path.parent) == [path.name]
            assert names_in(path) == ["notes.txt"]
            absent = path.parent / "absent" / path.name
            message = str(error_of(OutputError, write_features, absent, sample_features()))
            assert "No such file or directory" in message, name
        file = tmp_path / "video.fc6"
        file.write_bytes(b"a file")
        message = str(error_of(OutputError, write_features, file, sample_features()))
        assert "Not a directory" in message
        assert file.read_bytes() == b"a file"

    def test_arrays_that_are_no_features_are_refused(self, tmp_path):
        for name in FORMATS:
            path = format_path(tmp_path, name)
            for changes, expected in (
                ({"clip_features": np.zeros((3, 4096))}, "clip_features is float64 [3, 4096]"),
                ({"clip_features": np.zeros((2, 4096), np.float32)}, "expected float32 [3, 4096]"),
                ({"clip_times_s": np.zeros((3, 3))}, "clip_times_s is float64 [3, 3]"),
                ({"clip_starts": np.zeros(3, np.int32)}, "clip_starts is int32"),
                ({"clip_starts": np.zeros(0, np.int64)}, "no clips"),
                ({"video_feature": np.zeros(500, np.float32)}, "video_feature is float32 [500]"),
                ({"provenance": {"when": object()}}, "provenance is not JSON"),
                ({"provenance": {"fps": float("nan")}}, "provenance is not JSON"),
            ):
                error = error_of(OutputError, write_features, path, sample_features(**changes))
                assert expected in str(error), (name, changes)
                assert names_in(path.parent) == [], (name, changes)

    def test_several_threads_write_at_the_same_time(self, tmp_path):
        for name in FORMATS:
            path = format_path(tmp_path, name)
            paths = [path.with_name(f"{number}{path.name}") for number in range(6)]
            threads = [
                threading.Thread(target=write_features, args=(each, sample_features(20, seed=seed)))
                for seed, each in enumerate(paths)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            for seed, each in enumerate(paths):
                write_features(path, sample_features(20, seed=seed), format=name)
                expected = read_features(path).clip_features
                assert np.array_equal(read_features(each).clip_features, expected), (name, seed)


class TestFormats:
    def test_suffixes_are_unambiguous(self):
        suffixes = [entry.suffix for entry in FORMATS.values()]
        for suffix in suffixes:
            assert [other for other in suffixes if suffix.endswith(other)] == [suffix]

    def test_unknown_suffix_and_unknown_format_are_usage_errors(self, tmp_path):
        with pytest.raises(
            UsageError, match=r"video.mp4: its suffix is not that of a format.*\.npz \(npz\)"
        ):
            read_features(tmp_path / "video.mp4")
        with pytest.raises(UsageError, match="no format 'mat'; choose one of npz, npy, h5"):
            write_features(tmp_path / "video.mat", sample_features(), format="mat")

    def test_missing_library_is_an_error_that_names_the_extra(self, tmp_path, monkeypatch):
        for module in ("h5py", "pyarrow", "pyarrow.parquet"):
            monkeypatch.setitem(sys.modules, module, None)
        for name, entry in FORMATS.items():
            if entry.library is None:
                continue
            path = format_path(tmp_path, name)
            for function in (write_features, read_features):
                arguments = (path, sample_features()) if function is write_features else (path,)
                message = str(error_of(UsageError, function, *arguments))
                assert f"{entry.library} is not installed" in message, name
                assert f"c3d-client[{entry.extra}]" in message, name
            assert names_in(path.parent) == []


class TestNpz:
    def test_arrays_and_provenance_are_returned_by_key(self, tmp_path):
        features = sample_features()
        write_npz(tmp_path / "video.features", features)
        content = read_npz(tmp_path / "video.features")
        assert tuple(content) == NPZ_KEYS
        assert all(content[key] is not None for key in NPZ_KEYS)
        assert content["provenance"] == PROVENANCE
        assert np.array_equal(content["clip_features"], features.clip_features)

    def test_same_features_have_the_same_bytes(self, tmp_path):
        for name in ("one.npz", "two.npz"):
            write_npz(tmp_path / name, sample_features())
        assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
        with zipfile.ZipFile(tmp_path / "one.npz") as archive:  # and at any other time of day
            assert {member.date_time for member in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


class TestPrepareFolder:
    def test_folder_is_created_with_its_parents(self, tmp_path):
        assert prepare_folder(str(tmp_path / "a" / "b")) == tmp_path / "a" / "b"
        assert names_in(tmp_path / "a" / "b") == []

    def test_files_in_an_existing_folder_stay(self, tmp_path):
        (tmp_path / "notes").touch()
        prepare_folder(tmp_path)
        assert names_in(tmp_path) == ["notes"]

    def test_path_of_a_file_is_refused(self, tmp_path):
        (tmp_path / "file").touch()
        for folder in (tmp_path / "file", tmp_path / "file" / "below"):
            message = str(error_of(OutputError, prepare_folder, folder))
            assert "results cannot be written there" in message


class TestOutputPath:
    def test_video_name_is_kept_and_the_suffix_added(self, tmp_path):
        for name, entry in FORMATS.items():
            path = tmp_path / "a" / f"b.mp4{entry.suffix}"
            assert output_path(tmp_path, "a/b.mp4", name) == path
            assert output_path(str(tmp_path), "b.avi", name) == tmp_path / f"b.avi{entry.suffix}"

    def test_names_outside_the_folder_are_refused(self, tmp_path):
        for name in ("", ".", "/a/b.mp4", "../b.mp4", "a/../b.mp4", "a/..", "a\0b"):
            message = str(error_of(UsageError, output_path, tmp_path, name, "npz"))
            assert "give a relative path" in message, name
        with pytest.raises(UsageError, match="no format 'mat'"):
            output_path(tmp_path, "b.mp4", "mat")

    def test_longest_possible_names_are_written_and_read(self, tmp_path):
        for name in FORMATS:
            for letter, length in (("x", 80), ("é", 240), ("影", 251), ("x", 255)):
                stem = letter * ((length - 4) // len(letter.encode()))
                folder = tmp_path / f"{name}-{length}" / name
                folder.mkdir(parents=True)
                path = output_path(folder, f"{stem}.mp4", name)
                write_features(path, sample_features())
                assert read_provenance(path) == PROVENANCE, (name, length)
                assert names_in(folder) == expected_names(path), (name, length)
                if length == 80:
                    assert path.name == f"{stem}.mp4{FORMATS[name].suffix}"

    def test_cut_names_differ_where_the_whole_names_differ(self, tmp_path):
        one, other = (output_path(tmp_path, "x" * 250 + end, "npz") for end in ("a.mp4", "b.mp4"))
        assert one != other
        assert len(os.fsencode(one.name)) == len(os.fsencode(other.name)) == 255
        assert output_path(tmp_path, "x" * 250 + "a.mp4", "npz") == one

    def test_folder_names_are_cut_too(self, tmp_path):
        path = output_path(tmp_path, f"{'f' * 300}/b.mp4", "npz")
        path.parent.mkdir()
        assert path.name == "b.mp4.npz"

    def test_path_longer_than_the_system_allows_is_an_error(self, tmp_path):
        path = output_path(tmp_path, "/".join(["f" * 200] * 30), "npz")
        with pytest.raises(OutputError, match="File name too long"):
            write_features(path, sample_features())


def run_python(code):
    """Run code in a fresh process and return its standard output."""
    completed = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, cwd="tests"
    )
    assert completed.returncode == 0, completed.stderr
    return completed.stdout


class TestProcess:
    def test_import_loads_no_library_of_single_formats(self):
        modules = run_python("import sys, c3d_client.outputs; print(*sys.modules)").split()
        assert not {"h5py", "pyarrow", "pandas", "cv2", "av", "grpc"} & set(modules)

    def test_full_disk_does_not_crash_the_process_at_exit(self, tmp_path):
        """HDF5 crashes at exit where it saw that a write failed."""
        stdout = run_python(f"""
from support.sample_features import full_disk, sample_features
from c3d_client.outputs import OutputError, write_features
for name in ("h5", "activitynet", "parquet", "npz"):
    for size in (0, 100, 3000, 200_000):
        try:
            with full_disk(size):
                write_features({str(tmp_path / "video")!r}, sample_features(40), format=name)
        except OutputError:
            print("refused")
""")
        assert stdout.split() == ["refused"] * 16
        assert names_in(tmp_path) == []

    @pytest.mark.long
    def test_memory_does_not_grow_with_the_length_of_the_video(self, tmp_path):
        """5,000 clips are 82 MB, from a mapped file to a file and back to a mapped file."""
        stdout = run_python(f"""
import json, numpy as np
from dataclasses import replace
from support.resident import peak_growth_mb
from support.sample_features import sample_features
from c3d_client.outputs import FORMATS, read_features, write_features
from c3d_client.results import RowStore

store = RowStore()
chunk = sample_features(250).clip_features
for number in range(20):
    store.add(chunk + number)
features = replace(
    sample_features(1), clip_features=store.array(), clip_starts=np.arange(5000),
    clip_times_s=np.zeros((5000, 2)),
)
for name in [name for name in FORMATS if name != "caffe"]:  # one small file for each clip
    path = {str(tmp_path)!r} + "/video-" + name
    write_features(path, sample_features(3), format=name)  # loads the libraries
    print(json.dumps([
        name,
        peak_growth_mb(lambda: write_features(path, features, format=name)),
        peak_growth_mb(lambda: read_features(path, format=name)),
    ]))
""")
        for line in stdout.splitlines():
            name, writing_mb, reading_mb = json.loads(line)
            assert writing_mb < 63, name
            assert reading_mb < 63, name
