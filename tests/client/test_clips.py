"""Frames to clips: the paper's windows, and what is done at a film's end."""

import weakref

import numpy as np
import pytest
from c3d_client.core.errors import UsageError
from c3d_client.video.clips import ClipWindow, iter_batches, iter_clips
from c3d_client.video.decode import Frame, decode_frames
from c3d_client.video.frame import Picture
from support.films import read_index, write_film

# Readable in a prepared frame: the crop cuts off the bars of the lowest and highest bits.
SHOWN_BITS = 0b11111100


def numbered_frames(count, *, taken=None):
    """Frames of the size that needs no resizing, each filled with its number; 25 a second."""
    for number in range(count):
        if taken is not None:
            taken.append(number)
        pixels = np.full((128, 171, 3), number % 256, np.uint8)
        yield Frame.from_pixels(number, number / 25, 1 / 25, pixels)


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


@pytest.fixture
def prepared(monkeypatch):
    """The numbers of the frames that were prepared, in order."""
    numbers = []
    original = Picture.prepared

    def counting(self, resize="exact"):
        pixels = original(self, resize)
        numbers.append(int(pixels[0, 0, 0]))
        return pixels

    monkeypatch.setattr(Picture, "prepared", counting)
    return numbers


def shown(clip):
    """The numbers of a clip's frames."""
    return clip.pixels[:, 50, 50, 0].tolist()


class TestEnds:
    @pytest.mark.parametrize(
        ("tail", "last"),
        [
            ("drop", [*range(8, 24)]),
            ("pad", [*range(16, 27), 26, 26, 26, 26, 26]),
            ("loop", [*range(16, 27), 16, 17, 18, 19, 20]),
        ],
    )
    def test_frames_left_over_are_dropped_padded_or_looped(self, tail, last):
        found = list(iter_clips(numbered_frames(27), ClipWindow(tail=tail)))
        assert shown(found[-1]) == last
        assert found[-1].start_frame == last[0]
        assert found[-1].end_s == pytest.approx((last[-1] + 1 if tail == "drop" else 27) / 25)

    @pytest.mark.parametrize("tail", ["pad", "loop"])
    def test_no_clip_is_added_when_every_frame_is_in_one(self, tail):
        assert len(list(iter_clips(numbered_frames(32), ClipWindow(tail=tail)))) == 3

    @pytest.mark.parametrize(
        ("short", "clip"),
        [("pad", [0, 1, 2, 3, 4] + [4] * 11), ("loop", [0, 1, 2, 3, 4] * 3 + [0])],
    )
    def test_a_short_film_is_one_clip_where_that_is_asked_for(self, short, clip):
        (found,) = iter_clips(numbered_frames(5), ClipWindow(short=short))
        assert shown(found) == clip
        assert found.end_s == pytest.approx(5 / 25)

    def test_no_frames_are_no_clip_whatever_is_asked_for(self):
        assert list(iter_clips(numbered_frames(0), ClipWindow(short="pad", tail="loop"))) == []

    @pytest.mark.parametrize("stride", [1, 3, 8, 20, 50])
    @pytest.mark.parametrize("step", [1, 2, 3])
    @pytest.mark.parametrize("tail", ["drop", "pad", "loop"])
    @pytest.mark.parametrize("short", ["error", "pad", "loop"])
    def test_the_count_is_known_without_cutting(self, stride, step, tail, short):
        window = ClipWindow(stride, frame_step=step, tail=tail, short=short)
        for frames in (0, 1, 15, 16, 17, 24, 30, 31, 32, 46, 47, 48, 61, 97):
            found = [clip.start_frame for clip in iter_clips(numbered_frames(frames), window)]
            assert window.count(frames) == len(found)
            assert found == [stride * n for n in range(len(found))]
            if tail != "drop" and short != "error" and stride <= window.span and frames:
                # Nothing is left out.
                assert found[-1] + window.span >= frames

    @pytest.mark.parametrize("name", ["tail", "short", "resize"])
    def test_an_unknown_policy_is_refused_with_the_known_ones(self, name):
        with pytest.raises(UsageError, match=f"{name} is 'mirror'; give one of \\w+, \\w+"):
            ClipWindow(**{name: "mirror"})

    @pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf"), 1e6])
    def test_an_impossible_rate_is_refused(self, fps):
        with pytest.raises(UsageError, match="fps is"):
            ClipWindow(fps=fps)


class TestSteps:
    @pytest.mark.parametrize(("stride", "step"), [(8, 2), (1, 3), (5, 4), (40, 2)])
    def test_a_clip_takes_every_nth_frame(self, stride, step, prepared):
        window = ClipWindow(stride, frame_step=step)
        found = list(iter_clips(numbered_frames(100), window))
        needed = set()
        for clip in found:
            frames = [clip.start_frame + step * n for n in range(16)]
            assert shown(clip) == frames
            assert clip.end_s == pytest.approx((frames[-1] + 1) / 25)
            needed.update(frames)
        assert needed <= set(prepared)
        assert len(set(prepared)) == len(prepared)


class TestBatches:
    @pytest.mark.parametrize("size", [1, 3, 8, 32])
    def test_batches_hold_the_same_clips_in_order(self, size):
        clips = list(iter_clips(numbered_frames(100)))
        batches = list(iter_batches(numbered_frames(100), ClipWindow(), size=size))
        assert [len(batch.pixels) for batch in batches[:-1]] == [size] * (len(batches) - 1)
        assert np.array_equal(
            np.concatenate([batch.pixels for batch in batches]),
            np.stack([clip.pixels for clip in clips]),
        )
        assert [s for batch in batches for s in batch.start_frames] == [
            clip.start_frame for clip in clips
        ]
        assert [t for batch in batches for t in batch.times_s] == [
            (clip.start_s, clip.end_s) for clip in clips
        ]


class TestEconomy:
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
        class Watched(Picture):
            __slots__ = ("__weakref__",)

        alive = []

        def watched():
            for frame in numbered_frames(200):
                picture = Watched.from_pixels(frame.pixels)
                alive.append(weakref.ref(picture))
                yield Frame(frame.index, frame.time_s, frame.duration_s, picture)
                del frame, picture

        for _clip in iter_clips(watched()):
            # Full-size pixels: the loop variables' own frame, and not one more for each held.
            assert sum(ref() is not None for ref in alive) <= 2
        assert len(alive) == 200

    def test_a_picture_that_is_shown_twice_is_prepared_once(self, prepared):
        def doubled():
            for frame in numbered_frames(20):
                yield Frame(2 * frame.index, 0.0, 0.0, frame.picture)
                yield Frame(2 * frame.index + 1, 0.0, 0.0, frame.picture)

        list(iter_clips(doubled()))
        assert prepared == list(range(20))

    def test_a_clip_does_not_change_when_the_next_is_made(self):
        found = iter_clips(numbered_frames(40))
        first = next(found)
        before = first.pixels.copy()
        list(found)
        assert np.array_equal(first.pixels, before)
