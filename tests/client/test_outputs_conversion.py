"""Conversion between formats, and how files that fail are reported."""

import json
import shutil
from itertools import permutations

import h5py
import numpy as np
import pytest
from c3d_client.core.errors import OutputError, ProvenanceError, UsageError
from c3d_client.outputs import FORMATS, convert, read_features, read_provenance, write_features
from support.errors import error_of
from support.sample_features import (
    PROVENANCE,
    full_disk,
    names_in,
    same_features,
    sample_features,
)

LOSSLESS = [name for name, entry in FORMATS.items() if entry.lossless]
VIDEOS = ("a.mp4", "b/a.mp4", "b/c.avi")


def write_videos(folder, name="npz", videos=VIDEOS):
    """Write a folder of features of several videos that differ."""
    for seed, video in enumerate(videos):
        path = folder / f"{video}{FORMATS[name].suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_features(path, sample_features(seed=seed))
    return folder


def files_below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def successes(conversions):
    """The source's name of each conversion, and whether it succeeded."""
    return [(each.source.name, each.error is None) for each in conversions]


def test_lossless_formats_convert_to_each_other_without_a_change(tmp_path):
    for first, second in permutations(LOSSLESS, 2):
        folder = tmp_path / f"{first}-{second}"
        write_videos(folder / "one", first)
        there = list(convert([folder / "one"], folder / "two", to=second))
        back = list(convert([folder / "two"], folder / "three", to=first))
        assert [each.error for each in there + back] == [None] * 6, (first, second)
        assert files_below(folder / "one") == files_below(folder / "three"), (first, second)
        for seed, video in enumerate(VIDEOS):
            features = read_features(folder / "three" / f"{video}{FORMATS[first].suffix}")
            assert same_features(features, sample_features(seed=seed)), (first, second, video)


def test_provenance_fields_of_other_releases_are_converted_too(tmp_path):
    provenance = {**PROVENANCE, "layer": "fc7", "future": {"field": [1, None, "ü"]}}
    write_features(tmp_path / "a.mp4.npz", sample_features(provenance=provenance))
    for name, entry in FORMATS.items():
        out = tmp_path / name / "all.hdf5" if entry.many_videos else tmp_path / name
        [conversion] = convert([tmp_path / "a.mp4.npz"], out, to=name)
        assert read_provenance(conversion.target) == provenance, name


def test_folders_keep_relative_paths_and_files_their_names(tmp_path):
    write_videos(tmp_path / "in", videos=("a.mp4", "b/c.avi"))
    (tmp_path / "in" / "notes.txt").touch()
    (tmp_path / "in" / ".c3d-unfinished.npz").touch()
    for to, entry in FORMATS.items():
        out = tmp_path / to
        if entry.many_videos:
            conversions = list(convert([tmp_path / "in"], out / "all.hdf5", to=to))
            assert [each.target for each in conversions] == [out / "all.hdf5"] * 2
            continue
        conversions = list(convert([tmp_path / "in"], out, to=to))
        assert [each.source.name for each in conversions] == ["a.mp4.npz", "c.avi.npz"]
        assert [each.target for each in conversions] == [
            out / f"a.mp4{entry.suffix}",
            out / "b" / f"c.avi{entry.suffix}",
        ]
        assert all(each.target.exists() for each in conversions), to
        [single] = convert([tmp_path / "in" / "b" / "c.avi.npz"], out / "single", to=to)
        assert single.target == out / "single" / f"c.avi{entry.suffix}"


def test_unreadable_files_are_reported_and_the_rest_converted(tmp_path):
    write_videos(tmp_path / "in")
    (tmp_path / "in" / "b" / "a.mp4.npz").write_bytes(b"damaged")
    absent = tmp_path / "absent.npz"
    conversions = list(convert([tmp_path / "in", absent], tmp_path / "out", to="h5"))
    assert successes(conversions) == [
        ("a.mp4.npz", True),
        ("a.mp4.npz", False),
        ("c.avi.npz", True),
        ("absent.npz", False),
    ]
    for each in conversions:
        if each.error:
            assert isinstance(each.error, OutputError)
            assert each.error.path == str(each.source)
            assert each.target is None
    assert files_below(tmp_path / "out") == ["a.mp4.h5", "b/c.avi.h5"]


def test_unwritable_files_are_reported_and_the_rest_converted(tmp_path):
    write_videos(tmp_path / "in")
    (tmp_path / "out" / "a.mp4.h5").mkdir(parents=True)
    (tmp_path / "out" / "b").touch()
    conversions = list(convert([tmp_path / "in"], tmp_path / "out", to="h5"))
    assert [each.error is None for each in conversions] == [False] * 3
    assert all(str(tmp_path / "out") in str(each.error) for each in conversions)


def test_unclear_inputs_are_refused_before_anything_is_written(tmp_path):
    write_videos(tmp_path / "in")
    (tmp_path / "empty").mkdir()
    (tmp_path / "in" / "text").write_text("text")
    write_features(tmp_path / "in" / "d.mp4.h5", sample_features())
    for inputs, to, format, expected in (
        ([tmp_path / "empty"], "h5", None, "no features in"),
        ([], "h5", None, "no features in nothing"),
        ([tmp_path / "in"], "h5", "parquet", "no parquet features in"),
        ([tmp_path / "in"], "h5", None, "d.mp4.h5 (h5) and "),
        ([tmp_path / "in"], "h5", None, "several formats, "),
        ([tmp_path / "in" / "text"], "h5", None, "text: its suffix is not that of a format"),
        ([tmp_path / "in" / "a.mp4"], "h5", None, "a.mp4: no such file or folder; give what has"),
        ([tmp_path / "absent"], "h5", None, "absent: no such file or folder; give what has"),
        ([tmp_path / "in"], "mat", None, "no format 'mat'"),
        ([tmp_path / "in"], "h5", "mat", "no format 'mat'"),
    ):
        error = error_of(UsageError, convert, inputs, tmp_path / "out", to=to, format=format)
        assert expected in str(error)
    assert not (tmp_path / "out").exists()
    conversions = list(convert([tmp_path / "in"], tmp_path / "out", to="npy", format="npz"))
    assert len(conversions) == 3


def test_out_of_the_wrong_kind_is_refused_before_anything_is_reported(tmp_path):
    write_videos(tmp_path / "in")
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for out, to, expected in (
        ("file", "npy", "file: is a file; give a folder to write to"),
        ("folder", "activitynet", "folder: is a folder; activitynet is one file of all videos"),
    ):
        error = error_of(UsageError, convert, [tmp_path / "in"], tmp_path / out, to=to)
        assert expected in str(error)
    assert (tmp_path / "file").read_bytes() == b""
    assert list((tmp_path / "folder").iterdir()) == []


def test_two_inputs_with_one_target_are_refused_before_anything_is_written(tmp_path):
    for folder in ("one", "two"):
        write_videos(tmp_path / folder, videos=("a.mp4",))
    with pytest.raises(UsageError, match=r"one/a.mp4.npz and .*two/a.mp4.npz would both"):
        convert([tmp_path / "one", tmp_path / "two"], tmp_path / "out", to="h5")
    assert not (tmp_path / "out").exists()


def test_input_is_not_replaced_by_another_one_before_it_is_read(tmp_path):
    write_videos(tmp_path, videos=("shot.cut.a", "shot.cut"))
    before = [(path, path.read_bytes()) for path in sorted(tmp_path.iterdir())]
    with pytest.raises(
        UsageError, match=r"a\.npz would be written to .*cut\.npz, which is another"
    ):
        convert([tmp_path], f"{tmp_path}/../{tmp_path.name}", to="npz", name="{stem}.npz")
    assert [(path, path.read_bytes()) for path in sorted(tmp_path.iterdir())] == before
    done = list(convert([tmp_path], tmp_path, to="npz"))  # each in its own place
    assert [conversion.target for conversion in done] == [path for path, _ in before]


def test_repeated_input_is_converted_once(tmp_path):
    write_videos(tmp_path, videos=("a.mp4",))
    path = tmp_path / "a.mp4.npz"
    assert len(list(convert([path, tmp_path, path], tmp_path / "out", to="h5"))) == 1


def test_means_are_not_converted_to_clips(tmp_path):
    write_videos(tmp_path / "in", "sultani")
    with pytest.raises(UsageError, match="32 means and no clips"):
        convert([tmp_path / "in"], tmp_path / "out", to="npz")


def test_folders_of_the_original_c3d_are_found_where_the_format_is_named(tmp_path):
    write_videos(tmp_path / "in", "caffe", videos=("v_a", "group/v_b"))
    (tmp_path / "in" / "v_a.fc6").rename(tmp_path / "in" / "v_a")
    conversions = list(convert([tmp_path / "in"], tmp_path / "out", to="npz", format="caffe"))
    assert all(each.error is None for each in conversions)
    assert files_below(tmp_path / "out") == ["group/v_b.npz", "v_a.npz"]
    features = read_features(tmp_path / "out" / "v_a.npz")
    assert features.provenance["converted_from"] == {"format": "caffe", "name": "v_a"}
    [single] = convert([tmp_path / "in" / "v_a"], tmp_path / "single", to="npz", format="caffe")
    assert single.target == tmp_path / "single" / "v_a.npz"


class TestCollection:
    videos = ("train/v_a.mp4", "train/v_b.mp4", "test/v_c.avi")

    @pytest.fixture
    def folder(self, tmp_path):
        return write_videos(tmp_path / "in", videos=self.videos)

    @pytest.fixture
    def collection(self, tmp_path):
        return tmp_path / "all.hdf5"

    def test_holds_every_video_under_its_id(self, folder, collection):
        conversions = list(convert([folder], collection, to="activitynet"))
        assert [each.error for each in conversions] == [None] * 3
        with h5py.File(collection, "r") as file:
            for seed, name in enumerate(("v_a", "v_b", "v_c")):
                rows = file[name]["c3d_features"][:]
                assert np.array_equal(rows, sample_features(seed=seed).clip_features)

    def test_appears_after_the_last_video(self, folder, collection):
        conversions = convert([folder], collection, to="activitynet")
        for _ in range(3):
            next(conversions)
            assert not collection.exists()
        conversions.close()  # as on Ctrl-C
        assert names_in(collection.parent) == ["in"]

    def test_leaves_out_videos_that_cannot_be_read(self, folder, collection):
        (folder / "train" / "v_a.mp4.npz").write_bytes(b"damaged")
        path = folder / "train" / "v_b.mp4.npz"
        content = bytearray(path.read_bytes())
        content[1000] ^= 1  # a wrong bit among the clips, found when they are read
        path.write_bytes(content)
        conversions = list(convert([folder], collection, to="activitynet"))
        failed = [each.source.name for each in conversions if each.error]
        assert sorted(failed) == ["v_a.mp4.npz", "v_b.mp4.npz"]
        with h5py.File(collection, "r") as file:
            assert list(file) == ["v_c"]

    def test_without_videos_is_not_written(self, tmp_path):
        write_videos(tmp_path / "in", videos=("a.mp4",))
        (tmp_path / "in" / "a.mp4.npz").write_bytes(b"damaged")
        [conversion] = convert([tmp_path / "in"], tmp_path / "new" / "all.hdf5", to="activitynet")
        assert conversion.error is not None
        assert names_in(tmp_path) == ["in"]

    def test_refuses_two_videos_of_one_id(self, tmp_path, collection):
        write_videos(tmp_path / "in", videos=("a/v.mp4", "b/v.avi"))
        with pytest.raises(UsageError, match=r"v.mp4.npz and .*v.avi.npz would both .* to v;"):
            convert([tmp_path / "in"], collection, to="activitynet")

    def test_refuses_videos_that_were_made_differently(self, folder, collection):
        other = sample_features(provenance={**PROVENANCE, "clips": {"frames": 16, "stride": 16}})
        write_features(folder / "v_d.mp4.npz", other)
        with pytest.raises(ProvenanceError, match=r"made differently.*clips.stride: 16 aga"):
            convert([folder], collection, to="activitynet")
        assert names_in(collection.parent) == ["in"]

    def test_has_videos_of_several_versions_of_the_software(self, folder, collection):
        other = sample_features(provenance={**PROVENANCE, "software": {"pyav": "14.0.0"}})
        write_features(folder / "v_d.mp4.npz", other)
        conversions = list(convert([folder], collection, to="activitynet"))
        assert [each.error for each in conversions] == [None] * len(conversions)
        with h5py.File(collection) as file:
            versions = [
                json.loads(each.attrs["provenance"]).get("software") for each in file.values()
            ]
        assert {"pyav": "14.0.0"} in versions

    def test_full_disk_is_an_error_and_keeps_the_earlier_collection(self, folder, collection):
        collection.write_bytes(b"earlier")
        with full_disk(60_000), pytest.raises(OutputError, match="too large") as caught:
            list(convert([folder], collection, to="activitynet"))
        assert caught.value.path == str(collection)
        assert names_in(collection.parent) == ["all.hdf5", "in"]
        assert collection.read_bytes() == b"earlier"

    def test_is_converted_to_one_file_for_each_video(self, folder, collection, tmp_path):
        list(convert([folder], collection, to="activitynet"))
        with h5py.File(collection, "a") as file:
            del file["v_b"]["c3d_features"]
            file["v_b"]["c3d_features"] = np.ones((3, 500), np.float32)
        conversions = list(convert([collection], tmp_path / "out", to="npz"))
        assert successes(conversions) == [("v_a", True), ("v_b", False), ("v_c", True)]
        message = str(conversions[1].error)
        assert message.startswith(f"{collection}/v_b: holds no C3D features")
        features = read_features(tmp_path / "out" / "v_c.npz")
        assert np.array_equal(features.clip_features, sample_features(seed=2).clip_features)
        note = {"format": "activitynet", "name": "v_c"}
        assert features.provenance == {**PROVENANCE, "converted_from": note}

    def test_is_made_of_other_collections(self, tmp_path):
        for name in ("v_a", "v_b"):
            write_videos(tmp_path / name, videos=(f"{name}.mp4",))
            list(convert([tmp_path / name], tmp_path / f"{name}.hdf5", to="activitynet"))
            shutil.rmtree(tmp_path / name)
        (tmp_path / "damaged.hdf5").write_bytes(b"damaged")
        collection = tmp_path / "all" / "all.hdf5"
        conversions = list(convert([tmp_path], collection, to="activitynet"))
        assert sorted(successes(conversions)) == [
            ("damaged.hdf5", False),
            ("v_a", True),
            ("v_b", True),
        ]
        with h5py.File(collection, "r") as file:
            assert list(file) == ["v_a", "v_b"]
