"""Frames to clips: OpenCV's pixels, Caffe's crop, the paper's windows."""

import itertools
import weakref

import av
import cv2
import numpy as np
import pytest
from c3d_client import clips
from c3d_client.clips import ClipWindow, iter_clips, prepare_frame
from c3d_client.errors import UsageError
from c3d_client.video import Frame, decode_frames
from films import read_index, write_film

# Readable in a prepared frame: the crop cuts off the bars of the lowest and highest bits.
SHOWN_BITS = 0b11111100


def numbered_frames(count, *, taken=None):
    """Frames of the size that needs no resizing, each filled with its number; 25 a second."""
    for number in range(count):
        if taken is not None:
            taken.append(number)
        pixels = np.full((128, 171, 3), number % 256, np.uint8)
        yield Frame(index=number, time_s=number / 25, duration_s=1 / 25, pixels=pixels)


class TestPreparedFrames:
    @pytest.mark.parametrize("name", ["bikes", "bunny", "carphone", "baseball"])
    def test_pixels_of_real_films_are_exactly_opencvs(self, request, name):
        with av.open(str(request.getfixturevalue(name))) as film:
            for frame in itertools.islice(film.decode(video=0), 0, 60, 20):
                pixels = frame.to_ndarray(format="rgb24")
                resized = cv2.resize(pixels, (171, 128), interpolation=cv2.INTER_LINEAR)
                prepared = prepare_frame(pixels)
                assert prepared.dtype == np.uint8
                assert prepared.shape == (112, 112, 3)
                assert np.array_equal(prepared, resized[8:120, 29:141])

    def test_the_crop_starts_at_row_8_and_column_29(self):
        rows, columns = np.mgrid[0:128, 0:171]
        marked = np.stack([rows, columns, np.zeros_like(rows)], axis=-1).astype(np.uint8)
        prepared = prepare_frame(marked)
        assert prepared[0, 0].tolist() == [8, 29, 0]
        assert prepared[-1, -1].tolist() == [119, 140, 0]

    def test_channels_keep_their_order(self):
        red = np.zeros((240, 320, 3), np.uint8)
        red[..., 0] = 200
        assert prepare_frame(red)[50, 50].tolist() == [200, 0, 0]


class TestWindows:
    @pytest.mark.parametrize("stride", [1, 8, 16, 20])
    @pytest.mark.parametrize("frames", [0, 1, 15, 16, 17, 23, 24, 31, 32, 35, 36, 100])
    def test_the_number_of_clips_is_the_formulas(self, frames, stride):
        window = ClipWindow(stride)
        starts = [clip.start_frame for clip in iter_clips(numbered_frames(frames), window)]
        expected = (frames - 16) // stride + 1 if frames >= 16 else 0
        assert starts == [stride * n for n in range(expected)]
        assert window.count(frames) == expected

    @pytest.mark.parametrize("stride", [1, 8, 16, 20])
    def test_a_clip_holds_the_16_frames_from_its_start(self, stride):
        for clip in iter_clips(numbered_frames(100), ClipWindow(stride)):
            assert clip.pixels.shape == (16, 112, 112, 3)
            assert clip.pixels.dtype == np.uint8
            expected = np.arange(clip.start_frame, clip.start_frame + 16, dtype=np.uint8)
            assert np.array_equal(clip.pixels[:, 0, 0, 0], expected)

    def test_the_papers_stride_is_the_default(self):
        assert [clip.start_frame for clip in iter_clips(numbered_frames(40))] == [0, 8, 16, 24]

    def test_times_are_from_the_first_frames_start_to_the_last_frames_end(self):
        spans = [(clip.start_s, clip.end_s) for clip in iter_clips(numbered_frames(32))]
        assert spans == [
            pytest.approx((start / 25, (start + 16) / 25), abs=1e-9) for start in (0, 8, 16)
        ]

    @pytest.mark.parametrize("stride", [0, -8, 2.5, "8"])
    def test_other_strides_are_refused(self, stride):
        with pytest.raises(UsageError, match="stride is"):
            ClipWindow(stride)

    @pytest.mark.parametrize(
        ("name", "codec"), [("film.mp4", "libx264"), ("film.avi", "mpeg4"), ("film.mkv", "libx264")]
    )
    def test_clips_of_an_encoded_film_hold_the_right_frames(self, tmp_path, name, codec):
        # Crossing 64 and 128 turns many bars at once; B-frames are stored out of order.
        film = write_film(tmp_path / name, 140, codec=codec)
        found = list(iter_clips(decode_frames(film)))
        assert [clip.start_frame for clip in found] == list(range(0, 125, 8))
        for clip in found:
            shown = [read_index(frame) for frame in clip.pixels]
            assert shown == [(clip.start_frame + n) & SHOWN_BITS for n in range(16)]
            assert clip.start_s == pytest.approx(clip.start_frame / 25, abs=2e-3)
            assert clip.end_s == pytest.approx((clip.start_frame + 16) / 25, abs=2e-3)


class TestEconomy:
    @pytest.fixture
    def prepared(self, monkeypatch):
        """The numbers of the frames that were prepared, in order."""
        numbers = []

        def counting(pixels):
            numbers.append(int(pixels[0, 0, 0]))
            return prepare_frame(pixels)

        monkeypatch.setattr(clips, "prepare_frame", counting)
        return numbers

    @pytest.mark.parametrize("stride", [1, 8, 16])
    def test_each_frame_is_prepared_once_however_many_clips_hold_it(self, prepared, stride):
        list(iter_clips(numbered_frames(64), ClipWindow(stride)))
        assert prepared == list(range(64))

    def test_frames_between_clips_are_not_prepared(self, prepared):
        list(iter_clips(numbered_frames(60), ClipWindow(20)))
        assert prepared == [n for n in range(60) if n % 20 < 16]

    def test_a_clip_is_there_as_soon_as_its_last_frame_is(self):
        taken = []
        found = iter_clips(numbered_frames(1000, taken=taken))
        next(found)
        assert taken == list(range(16))
        next(found)
        assert taken == list(range(24))

    def test_frames_are_let_go_once_no_clip_needs_them(self):
        alive = []

        def watched():
            for frame in numbered_frames(200):
                alive.append(weakref.ref(frame.pixels))
                yield frame

        for _clip in iter_clips(watched()):
            # Full-size pixels: the loop variables' own frame, and not one more for each held.
            assert sum(ref() is not None for ref in alive) <= 2
        assert len(alive) == 200

    def test_a_clip_does_not_change_when_the_next_is_made(self):
        found = iter_clips(numbered_frames(40))
        first = next(found)
        before = first.pixels.copy()
        list(found)
        assert np.array_equal(first.pixels, before)
