"""Features from one format to another, and how it is told what could not be."""

import shutil
from itertools import permutations

import h5py
import numpy as np
import pytest
from c3d_client.core.errors import OutputError, ProvenanceError, UsageError
from c3d_client.outputs import FORMATS, convert, read_features, write_features
from support.sample_features import PROVENANCE, full_disk, names_in, same, sample_features

LOSSLESS = [name for name, known in FORMATS.items() if known.lossless]


def written(folder, name="npz", videos=("a.mp4", "b/a.mp4", "b/c.avi")):
    """A folder of features of several videos, each with rows of its own."""
    for seed, video in enumerate(videos):
        path = folder / f"{video}{FORMATS[name].suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_features(path, sample_features(seed=seed))
    return folder


def files_below(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


@pytest.mark.parametrize(("first", "second"), list(permutations(LOSSLESS, 2)))
def test_to_a_lossless_format_and_back_nothing_has_changed(tmp_path, first, second):
    written(tmp_path / "one", first)
    there = list(convert([tmp_path / "one"], tmp_path / "two", to=second))
    back = list(convert([tmp_path / "two"], tmp_path / "three", to=first))
    assert [done.error for done in there + back] == [None] * 6
    assert files_below(tmp_path / "one") == files_below(tmp_path / "three")
    for done in back:
        seed = ["a.mp4", "b/a.mp4", "b/c.avi"].index(
            str(done.target.relative_to(tmp_path / "three"))[: -len(FORMATS[first].suffix)]
        )
        assert same(read_features(done.target), sample_features(seed=seed))


@pytest.mark.parametrize("to", FORMATS)
def test_a_folder_keeps_its_paths_and_a_file_its_name(tmp_path, to):
    written(tmp_path / "in", videos=("a.mp4", "b/c.avi"))
    (tmp_path / "in" / "notes.txt").touch()
    (tmp_path / "in" / ".c3d-unfinished.npz").touch()
    if FORMATS[to].many:
        done = list(convert([tmp_path / "in"], tmp_path / "new" / "all.hdf5", to=to))
        assert [one.target for one in done] == [tmp_path / "new" / "all.hdf5"] * 2
        return
    done = list(convert([tmp_path / "in"], tmp_path / "out", to=to))
    suffix = FORMATS[to].suffix
    assert [one.source.name for one in done] == ["a.mp4.npz", "c.avi.npz"]
    assert [one.target for one in done] == [
        tmp_path / "out" / f"a.mp4{suffix}",
        tmp_path / "out" / "b" / f"c.avi{suffix}",
    ]
    assert all(one.target.exists() for one in done)
    [single] = convert([tmp_path / "in" / "b" / "c.avi.npz"], tmp_path / "single", to=to)
    assert single.target == tmp_path / "single" / f"c.avi{suffix}"


def test_what_cannot_be_read_is_told_and_the_rest_converted(tmp_path):
    written(tmp_path / "in")
    (tmp_path / "in" / "b" / "a.mp4.npz").write_bytes(b"damaged")
    absent = tmp_path / "absent.npz"
    done = list(convert([tmp_path / "in", absent], tmp_path / "out", to="h5"))
    assert [(one.source.name, one.error is None) for one in done] == [
        ("a.mp4.npz", True),
        ("a.mp4.npz", False),
        ("c.avi.npz", True),
        ("absent.npz", False),
    ]
    for one in done:
        if one.error:
            assert isinstance(one.error, OutputError)
            assert one.error.path == str(one.source)
            assert one.target is None
    assert files_below(tmp_path / "out") == ["a.mp4.h5", "b/c.avi.h5"]


def test_what_cannot_be_written_is_told_and_the_rest_converted(tmp_path):
    written(tmp_path / "in")
    (tmp_path / "out" / "a.mp4.h5").mkdir(parents=True)
    (tmp_path / "out" / "b").touch()
    done = list(convert([tmp_path / "in"], tmp_path / "out", to="h5"))
    assert [one.error is None for one in done] == [False] * 3
    assert all(str(tmp_path / "out") in str(one.error) for one in done)


def test_nothing_found_or_several_formats_is_an_error_before_anything_is_written(tmp_path):
    written(tmp_path / "in")
    (tmp_path / "empty").mkdir()
    write_features(tmp_path / "in" / "d.mp4.h5", sample_features())
    for arguments, words in (
        (([tmp_path / "empty"], "h5", None), "no features in"),
        (([], "h5", None), "no features in nothing"),
        (([tmp_path / "in"], "h5", "parquet"), "no parquet features in"),
        (([tmp_path / "in"], "h5", None), r"several formats, .*d.mp4.h5 \(h5\) and .*\(npz\)"),
        (([tmp_path / "in" / "a.mp4"], "h5", None), "its name does not tell the format"),
        (([tmp_path / "in"], "mat", None), "no format 'mat'"),
        (([tmp_path / "in"], "h5", "mat"), "no format 'mat'"),
    ):
        inputs, to, kind = arguments
        with pytest.raises(UsageError, match=words):
            convert(inputs, tmp_path / "out", to=to, format=kind)
    assert not (tmp_path / "out").exists()
    done = list(convert([tmp_path / "in"], tmp_path / "out", to="npy", format="npz"))
    assert len(done) == 3


def test_two_inputs_for_one_place_are_an_error_before_anything_is_written(tmp_path):
    for folder in ("one", "two"):
        written(tmp_path / folder, videos=("a.mp4",))
    with pytest.raises(UsageError, match=r"one/a.mp4.npz and .*two/a.mp4.npz would both"):
        convert([tmp_path / "one", tmp_path / "two"], tmp_path / "out", to="h5")
    assert not (tmp_path / "out").exists()


def test_the_same_input_twice_is_one(tmp_path):
    written(tmp_path, videos=("a.mp4",))
    path = tmp_path / "a.mp4.npz"
    assert len(list(convert([path, tmp_path, path], tmp_path / "out", to="h5"))) == 1


def test_means_are_never_made_clips_again(tmp_path):
    written(tmp_path / "in", "sultani")
    with pytest.raises(UsageError, match="32 means and no clips"):
        convert([tmp_path / "in"], tmp_path / "out", to="npz")


def test_the_originals_folders_are_found_when_asked_for(tmp_path):
    written(tmp_path / "in", "caffe", videos=("v_a", "group/v_b"))
    (tmp_path / "in" / "v_a.fc6").rename(tmp_path / "in" / "v_a")
    done = list(convert([tmp_path / "in"], tmp_path / "out", to="npz", format="caffe"))
    assert sorted(str(one.target.relative_to(tmp_path / "out")) for one in done) == [
        "group/v_b.npz",
        "v_a.npz",
    ]
    read = read_features(tmp_path / "out" / "v_a.npz")
    assert read.provenance["converted_from"] == {"format": "caffe", "name": "v_a"}
    [one] = convert([tmp_path / "in" / "v_a"], tmp_path / "single", to="npz", format="caffe")
    assert one.target == tmp_path / "single" / "v_a.npz"


class TestACollection:
    videos = ("train/v_a.mp4", "train/v_b.mp4", "test/v_c.avi")

    def test_has_every_video_under_its_id(self, tmp_path):
        written(tmp_path / "in", videos=self.videos)
        done = list(convert([tmp_path / "in"], tmp_path / "all.hdf5", to="activitynet"))
        assert [one.error for one in done] == [None] * 3
        with h5py.File(tmp_path / "all.hdf5", "r") as file:
            for seed, name in enumerate(("v_a", "v_b", "v_c")):
                rows = file[name]["c3d_features"][:]
                assert np.array_equal(rows, sample_features(seed=seed).clip_features)

    def test_appears_when_the_last_is_in_it(self, tmp_path):
        written(tmp_path / "in", videos=self.videos)
        doing = convert([tmp_path / "in"], tmp_path / "all.hdf5", to="activitynet")
        for _ in range(3):
            next(doing)
            assert not (tmp_path / "all.hdf5").exists()
        doing.close()  # as when a person interrupts
        assert names_in(tmp_path) == ["in"]

    def test_leaves_out_what_cannot_be_read(self, tmp_path):
        written(tmp_path / "in", videos=self.videos)
        (tmp_path / "in" / "train" / "v_a.mp4.npz").write_bytes(b"damaged")
        path = tmp_path / "in" / "train" / "v_b.mp4.npz"
        content = bytearray(path.read_bytes())
        content[1000] ^= 1  # a wrong bit among the clips, seen only when they are read
        path.write_bytes(content)
        done = list(convert([tmp_path / "in"], tmp_path / "all.hdf5", to="activitynet"))
        assert sorted(one.source.name for one in done if one.error) == [
            "v_a.mp4.npz",
            "v_b.mp4.npz",
        ]
        with h5py.File(tmp_path / "all.hdf5", "r") as file:
            assert list(file) == ["v_c"]

    def test_of_none_is_not_written(self, tmp_path):
        written(tmp_path / "in", videos=("a.mp4",))
        (tmp_path / "in" / "a.mp4.npz").write_bytes(b"damaged")
        [done] = convert([tmp_path / "in"], tmp_path / "new" / "all.hdf5", to="activitynet")
        assert done.error is not None
        assert names_in(tmp_path) == ["in"]

    def test_refuses_two_videos_of_one_id(self, tmp_path):
        written(tmp_path / "in", videos=("a/v.mp4", "b/v.avi"))
        with pytest.raises(UsageError, match=r"v.mp4.npz and .*v.avi.npz would both .* to v;"):
            convert([tmp_path / "in"], tmp_path / "all.hdf5", to="activitynet")

    def test_refuses_videos_that_were_made_differently(self, tmp_path):
        written(tmp_path / "in", videos=self.videos)
        other = sample_features(provenance={**PROVENANCE, "clips": {"frames": 16, "stride": 16}})
        write_features(tmp_path / "in" / "v_d.mp4.npz", other)
        with pytest.raises(ProvenanceError, match=r"made differently.*clips: .*'stride': 16"):
            convert([tmp_path / "in"], tmp_path / "all.hdf5", to="activitynet")
        assert names_in(tmp_path) == ["in"]

    def test_that_cannot_be_written_is_an_error_that_leaves_the_earlier_one(self, tmp_path):
        written(tmp_path / "in", videos=self.videos)
        (tmp_path / "all.hdf5").write_bytes(b"earlier")
        with full_disk(60_000), pytest.raises(OutputError, match="too large") as caught:
            list(convert([tmp_path / "in"], tmp_path / "all.hdf5", to="activitynet"))
        assert caught.value.path == str(tmp_path / "all.hdf5")
        assert names_in(tmp_path) == ["all.hdf5", "in"]
        assert (tmp_path / "all.hdf5").read_bytes() == b"earlier"

    def test_becomes_a_file_a_video(self, tmp_path):
        written(tmp_path / "in", videos=self.videos)
        list(convert([tmp_path / "in"], tmp_path / "all.hdf5", to="activitynet"))
        with h5py.File(tmp_path / "all.hdf5", "a") as file:
            del file["v_b"]["c3d_features"]
            file["v_b"]["c3d_features"] = np.ones((3, 500), np.float32)
        done = list(convert([tmp_path / "all.hdf5"], tmp_path / "out", to="npz"))
        assert [(one.source.name, one.error is None) for one in done] == [
            ("v_a", True),
            ("v_b", False),
            ("v_c", True),
        ]
        assert str(done[1].error).startswith(f"{tmp_path}/all.hdf5/v_b: holds no C3D features")
        read = read_features(tmp_path / "out" / "v_c.npz")
        assert np.array_equal(read.clip_features, sample_features(seed=2).clip_features)
        note = {"format": "activitynet", "name": "v_c"}
        assert read.provenance == {**PROVENANCE, "converted_from": note}

    def test_is_made_of_others(self, tmp_path):
        for name in ("v_a", "v_b"):
            written(tmp_path / name, videos=(f"{name}.mp4",))
            list(convert([tmp_path / name], tmp_path / f"{name}.hdf5", to="activitynet"))
            shutil.rmtree(tmp_path / name)
        (tmp_path / "damaged.hdf5").write_bytes(b"damaged")
        done = list(convert([tmp_path], tmp_path / "all" / "all.hdf5", to="activitynet"))
        assert sorted((one.source.name, one.error is None) for one in done) == [
            ("damaged.hdf5", False),
            ("v_a", True),
            ("v_b", True),
        ]
        with h5py.File(tmp_path / "all" / "all.hdf5", "r") as file:
            assert list(file) == ["v_a", "v_b"]
