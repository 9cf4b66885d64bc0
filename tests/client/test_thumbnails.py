"""Thumbnails: the right frames, evenly spread, and few whatever the length of the video."""

import numpy as np
import pytest
from c3d_client.core.errors import UsageError, VideoDecodeError
from c3d_client.video.decode import Frame
from c3d_client.views.thumbnails import Thumbnails, read_thumbnails
from support.videos import index_frame, write_video


class CountingPicture:
    """Picture that counts how often its pixels are converted."""

    conversions = 0

    def pixels(self):
        CountingPicture.conversions += 1
        return np.zeros((90, 160, 3), np.uint8)


def make_frames(times_s, pixels=None):
    pixels = np.zeros((4, 6, 3), np.uint8) if pixels is None else pixels
    for index, time_s in enumerate(times_s):
        yield Frame.from_pixels(index, time_s, 0.04, pixels)


def watch(times_s, **options):
    thumbnails = Thumbnails(**options)
    assert [frame.time_s for frame in thumbnails.watch(make_frames(times_s))] == list(times_s)
    return thumbnails


def test_thumbnails_are_frames_evenly_spread_to_the_end(tmp_path):
    thumbnails = read_thumbnails(write_video(tmp_path / "video.mp4", 300), count=20)
    assert 10 <= len(thumbnails.all) <= 20
    assert thumbnails.end_s == pytest.approx(12)
    for thumbnail in thumbnails.all:
        assert thumbnail.time_s == pytest.approx(thumbnail.index / 25)
        expected = index_frame(thumbnail.index, width=240, height=180)
        assert np.abs(thumbnail.pixels.astype(int) - expected).mean() < 6
    gaps = np.diff([thumbnail.index for thumbnail in thumbnails.all])
    assert gaps.max() - gaps.min() <= 1
    assert thumbnails.all[0].index == 0
    assert 300 - thumbnails.all[-1].index <= gaps.max() + 1


def test_all_frames_of_a_very_short_video_are_stored():
    assert len(watch(np.arange(20) / 25, count=20).all) == 20


def test_thumbnails_are_spread_over_time_and_not_over_frames():
    # Slides: a burst of 200 frames in two seconds, then one frame a second.
    times_s = [*np.arange(200) / 100, *np.arange(2, 100)]
    times = [thumbnail.time_s for thumbnail in watch(times_s, count=20).all]
    assert np.diff(times).min() > 4
    assert np.diff(times).max() < 12


def test_an_hour_converts_few_hundred_frames_and_stores_sixty():
    CountingPicture.conversions = 0
    thumbnails = Thumbnails()
    for _ in thumbnails.watch(Frame(i, i / 25, 0.04, CountingPicture()) for i in range(90_000)):
        assert len(thumbnails.all) <= 60
    assert CountingPicture.conversions < 600
    assert thumbnails.end_s == pytest.approx(3600)
    assert np.diff([thumbnail.time_s for thumbnail in thumbnails.all]).max() < 121


def test_thumbnail_fits_a_small_player_and_keeps_its_aspect_ratio():
    for shape, expected in (
        ((1080, 1920), (180, 320)),
        ((1920, 1080), (180, 101)),
        ((100, 2000), (16, 320)),
        ((120, 160), (120, 160)),
        ((2, 4000), (1, 320)),
    ):
        thumbnails = Thumbnails()
        list(thumbnails.watch(make_frames([0.0], np.zeros((*shape, 3), np.uint8))))
        assert thumbnails.all[0].pixels.shape == (*expected, 3), shape


def test_row_has_for_each_cell_the_thumbnail_nearest_to_its_middle():
    thumbnails = watch(np.arange(50) / 5)  # 10 seconds
    # Cells are 3 wide: 6.7 would fit, and 8 is the minimum.
    row = thumbnails.row(width=20, height=2, end_s=10)
    assert [thumbnail.time_s for thumbnail in row] == pytest.approx(
        [0.6, 1.8, 3.2, 4.4, 5.6, 6.8, 8.2, 9.4], abs=0.101
    )
    assert len(thumbnails.row(width=60, height=2, end_s=10)) == 20
    assert len(thumbnails.row(width=600, height=2, end_s=10)) == 24
    assert len(watch([0.0, 0.04]).row(width=60, height=2, end_s=1)) == 2
    assert Thumbnails().row(width=60, height=2, end_s=1) == []


def test_fewer_than_two_thumbnails_are_refused():
    with pytest.raises(UsageError, match="a strip of 1 thumbnails; give 2 or more"):
        Thumbnails(count=1)


def test_file_that_is_no_video_is_a_decode_error(tmp_path):
    (tmp_path / "video.mp4").write_bytes(b"no video")
    with pytest.raises(VideoDecodeError, match="video.mp4"):
        read_thumbnails(tmp_path / "video.mp4")
