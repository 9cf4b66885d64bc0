"""The 32 segments: their stride, and the clips of a longer stride."""

import json

import numpy as np
import pytest
from c3d_client import C3DClient, UsageError, convert, read_features, write_features
from c3d_client.outputs import read_provenance
from c3d_client.outputs.sultani import segment_means, with_stride
from support.sample_features import PROVENANCE, sample_features
from support.videos import write_video


def test_sidecar_has_the_stride(tmp_path):
    for stride, provenance in ((8, PROVENANCE), (None, {}), (None, {"clips": {"stride": "8"}})):
        path = tmp_path / "a_C.txt"
        write_features(path, sample_features(provenance=provenance))
        assert json.loads((tmp_path / "a_C.txt.json").read_text())["stride"] == stride
        assert len(read_features(path).clip_starts) == 32


@pytest.mark.long
def test_longer_stride_gives_the_rows_of_an_extraction_with_that_stride(
    narrow_server, tmp_path, run
):
    video = write_video(tmp_path / "a.mp4", 331)
    with C3DClient(narrow_server.target) as c3d:
        write_features(tmp_path / "a.mp4.npz", c3d.extract(video))
    for stride in (8, 16, 24):
        with C3DClient(narrow_server.target, stride=stride) as c3d:
            expected = c3d.extract(video)
        thin = with_stride(read_features(tmp_path / "a.mp4.npz"), stride)
        assert thin.clip_starts.tolist() == expected.clip_starts.tolist()
        assert np.allclose(thin.clip_times_s, expected.clip_times_s)
        assert thin.clip_features == pytest.approx(expected.clip_features, abs=1e-4)
        assert thin.video_feature == pytest.approx(expected.video_feature, abs=1e-6)
        assert thin.provenance == expected.provenance
        out = tmp_path / str(stride)
        code, _, notes = run(
            "convert", tmp_path / "a.mp4.npz", "--to", "sultani", "--out", out, "--stride", stride
        )
        assert code == 0
        assert len(notes) == (stride != 16)
        means = segment_means(expected.clip_features)
        assert read_features(out / "a.mp4_C.txt").clip_features == pytest.approx(means, abs=1e-4)
        assert read_provenance(out / "a.mp4_C.txt")["clips"]["stride"] == stride
        assert json.loads((out / "a.mp4_C.txt.json").read_text())["stride"] == stride


def test_stride_that_the_clips_do_not_have_is_refused(tmp_path):
    clips = PROVENANCE["clips"]
    starts = np.array([0, 8, 24])
    for number, (features, problem) in enumerate(
        (
            (sample_features(provenance={}), "does not have clips at equal distances"),
            (sample_features(clip_starts=starts), "does not have clips at equal distances"),
            (sample_features(clip_starts=np.full(3, -1)), "does not have clips at equal"),
            (
                sample_features(provenance={**PROVENANCE, "clips": {**clips, "tail": "pad"}}),
                "was made with the tail pad",
            ),
        )
    ):
        path = tmp_path / f"{number}.npz"
        write_features(path, features)
        [conversion] = convert([path], tmp_path / "out", to="sultani", stride=16)
        assert problem in str(conversion.error), problem
        assert "extract the video with --stride 16" in str(conversion.error)
        assert next(iter(convert([path], tmp_path / "all", to="sultani"))).error is None
    write_features(tmp_path / "8.npz", sample_features())
    [conversion] = convert([tmp_path / "8.npz"], tmp_path / "out", to="sultani", stride=12)
    assert "has clips every 8 frames, and 12 is no multiple of that" in str(conversion.error)
    # The one clip of a short video is the same with every stride.
    padded = {**PROVENANCE, "clips": {**clips, "tail": "pad", "short": "pad"}}
    write_features(tmp_path / "1.npz", sample_features(1, provenance=padded))
    [conversion] = convert([tmp_path / "1.npz"], tmp_path / "out", to="sultani", stride=16)
    assert conversion.error is None


def test_stride_of_another_format_or_of_means_is_refused(tmp_path):
    write_features(tmp_path / "a.npz", sample_features())
    write_features(tmp_path / "a_C.txt", sample_features())
    for arguments, problem in (
        ({"to": "npz", "stride": 16}, "stride is 16 for npz; give 1 or more, for sultani alone"),
        ({"to": "sultani", "stride": 0}, "stride is 0 for sultani; give 1 or more"),
    ):
        with pytest.raises(UsageError, match=problem):
            convert([tmp_path / "a.npz"], tmp_path / "out", **arguments)
    with pytest.raises(UsageError, match="sultani holds 32 means and no clips"):
        convert([tmp_path / "a_C.txt"], tmp_path / "out", to="sultani", stride=16)
    assert not (tmp_path / "out").exists()


def test_commands_note_a_stride_that_is_not_the_original_ones(run, fake_serving, video, tmp_path):
    server = ("--server", fake_serving().target)
    note = (
        "c3d: note: sultani: the segments are of clips every {} frames; the original work has 16 "
        "(--stride 16)"
    )
    for stride in (4, 8, 16):
        out = ("--out", tmp_path / str(stride))
        given = ("--format", "sultani", "--stride", stride)
        code, _, lines = run("extract", video, *given, *out, *server)
        assert code == 0
        assert (note.format(stride) in lines) == (stride != 16)
    assert not run("extract", video, "--format", "sultani", "-q", "--out", tmp_path / "q", *server)[
        2
    ]
    write_features(tmp_path / "a.npz", sample_features())
    code, _, lines = run("convert", tmp_path / "a.npz", "--to", "sultani", "--out", tmp_path / "c")
    assert (code, lines) == (0, [note.format(8)])
