"""Frames to clips: windows, tails, short videos, batches and resampling."""

import weakref
from fractions import Fraction

import numpy as np
import pytest
from c3d_client.core.errors import UsageError, VideoDecodeError
from c3d_client.video.clips import MAX_FPS, MIN_FPS, ClipWindow, iter_batches, iter_clips, resample
from c3d_client.video.decode import Frame, decode_frames
from c3d_client.video.frame import Picture
from support.videos import read_index, write_timed, write_video

# The bits that are readable in a prepared frame; the crop removes the bars of the others.
SHOWN_BITS = 0b11111100


def numbered_frames(count, *, read=None):
    """Yield frames that need no resizing, each filled with its number; 25 a second."""
    for number in range(count):
        if read is not None:
            read.append(number)
        pixels = np.full((128, 171, 3), number % 256, np.uint8)
        yield Frame.from_pixels(number, number / 25, 1 / 25, pixels)


class TestWindows:
    @pytest.mark.parametrize("stride", [1, 8, 16, 20])
    @pytest.mark.parametrize("frames", [0, 1, 15, 16, 17, 23, 24, 31, 32, 35, 36, 100])
    def test_number_of_clips(self, frames, stride):
        window = ClipWindow(stride)
        starts = [clip.start_frame for clip in iter_clips(numbered_frames(frames), window)]
        expected = (frames - 16) // stride + 1 if frames >= 16 else 0
        assert starts == [stride * n for n in range(expected)]
        assert window.count(frames) == expected

    @pytest.mark.parametrize("stride", [1, 8, 16, 20])
    def test_clip_contains_the_16_frames_from_its_start(self, stride):
        for clip in iter_clips(numbered_frames(100), ClipWindow(stride)):
            assert clip.pixels.shape == (16, 112, 112, 3)
            assert clip.pixels.dtype == np.uint8
            expected = np.arange(clip.start_frame, clip.start_frame + 16, dtype=np.uint8)
            assert np.array_equal(clip.pixels[:, 0, 0, 0], expected)

    def test_default_stride_is_that_of_the_paper(self):
        assert [clip.start_frame for clip in iter_clips(numbered_frames(40))] == [0, 8, 16, 24]

    def test_times_are_from_the_first_frames_start_to_the_last_frames_end(self):
        spans = [(clip.start_s, clip.end_s) for clip in iter_clips(numbered_frames(32))]
        assert spans == [
            pytest.approx((start / 25, (start + 16) / 25), abs=1e-9) for start in (0, 8, 16)
        ]

    @pytest.mark.parametrize("stride", [0, -8, 2.5, "8"])
    def test_wrong_stride_is_an_error(self, stride):
        with pytest.raises(UsageError, match="stride is"):
            ClipWindow(stride)

    @pytest.mark.parametrize(
        ("name", "codec"),
        [("video.mp4", "libx264"), ("video.avi", "mpeg4"), ("video.mkv", "libx264")],
    )
    def test_clips_of_an_encoded_video_contain_the_right_frames(self, tmp_path, name, codec):
        # Many bars change at 64 and at 128; B-frames are stored out of order.
        path = write_video(tmp_path / name, 140, codec=codec)
        clips = list(iter_clips(decode_frames(path)))
        assert [clip.start_frame for clip in clips] == list(range(0, 125, 8))
        for clip in clips:
            indices = [read_index(frame) for frame in clip.pixels]
            assert indices == [(clip.start_frame + n) & SHOWN_BITS for n in range(16)]
            assert clip.start_s == pytest.approx(clip.start_frame / 25, abs=2e-3)
            assert clip.end_s == pytest.approx((clip.start_frame + 16) / 25, abs=2e-3)


@pytest.fixture
def prepared(monkeypatch):
    """The numbers of the prepared frames, in order."""
    numbers = []
    original = Picture.prepared

    def counting(self, resize="exact"):
        pixels = original(self, resize)
        numbers.append(int(pixels[0, 0, 0]))
        return pixels

    monkeypatch.setattr(Picture, "prepared", counting)
    return numbers


def shown(clip):
    """Return the numbers of a clip's frames."""
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
    def test_remaining_frames_are_dropped_padded_or_looped(self, tail, last):
        clips = list(iter_clips(numbered_frames(27), ClipWindow(tail=tail)))
        assert shown(clips[-1]) == last
        assert clips[-1].start_frame == last[0]
        assert clips[-1].end_s == pytest.approx((last[-1] + 1 if tail == "drop" else 27) / 25)

    @pytest.mark.parametrize("tail", ["pad", "loop"])
    def test_no_clip_is_added_if_every_frame_is_in_one(self, tail):
        assert len(list(iter_clips(numbered_frames(32), ClipWindow(tail=tail)))) == 3

    @pytest.mark.parametrize(
        ("short", "numbers"),
        [("pad", [0, 1, 2, 3, 4] + [4] * 11), ("loop", [0, 1, 2, 3, 4] * 3 + [0])],
    )
    def test_short_video_is_one_padded_or_looped_clip(self, short, numbers):
        (clip,) = iter_clips(numbered_frames(5), ClipWindow(short=short))
        assert shown(clip) == numbers
        assert clip.end_s == pytest.approx(5 / 25)

    def test_no_frames_are_no_clip_with_any_policy(self):
        assert list(iter_clips(numbered_frames(0), ClipWindow(short="pad", tail="loop"))) == []

    @pytest.mark.parametrize("stride", [1, 3, 8, 20, 50])
    @pytest.mark.parametrize("step", [1, 2, 3])
    @pytest.mark.parametrize("tail", ["drop", "pad", "loop"])
    @pytest.mark.parametrize("short", ["error", "pad", "loop"])
    def test_count_equals_the_number_of_clips(self, stride, step, tail, short):
        window = ClipWindow(stride, frame_step=step, tail=tail, short=short)
        for frames in (0, 1, 15, 16, 17, 24, 30, 31, 32, 46, 47, 48, 61, 97):
            starts = [clip.start_frame for clip in iter_clips(numbered_frames(frames), window)]
            assert window.count(frames) == len(starts)
            assert starts == [stride * n for n in range(len(starts))]
            if tail != "drop" and short != "error" and stride <= window.span and frames:
                # Every frame is in a clip.
                assert starts[-1] + window.span >= frames

    @pytest.mark.parametrize("name", ["tail", "short", "resize"])
    def test_unknown_policy_is_an_error_that_names_the_known_ones(self, name):
        with pytest.raises(UsageError, match=f"{name} is 'mirror'; give one of \\w+, \\w+"):
            ClipWindow(**{name: "mirror"})

    def test_fps_has_the_same_range_as_in_resample(self):
        for fps in (MIN_FPS, 25, 12.5, MAX_FPS):
            assert ClipWindow(fps=fps).fps == fps
            resample([], fps=fps)
        for fps in (0, -1, 0.001, 0.0099, 1001, 1e6, float("nan"), float("inf"), "25", True):
            with pytest.raises(UsageError, match="fps is .*; give a number") as window_error:
                ClipWindow(fps=fps)
            with pytest.raises(UsageError) as resample_error:
                resample([], fps=fps)
            assert str(window_error.value) == str(resample_error.value), fps


class TestFps:
    def test_clips_are_those_of_the_resampled_frames(self):
        for fps in (10, 12.5, 25, 60):
            window = ClipWindow(fps=fps, tail="pad", short="pad")
            frames = list(resample(numbered_frames(70), fps=fps))
            expected = list(iter_clips(frames, ClipWindow(tail="pad", short="pad")))
            clips = list(iter_clips(numbered_frames(70), window))
            assert [shown(clip) for clip in clips] == [shown(clip) for clip in expected]
            assert [clip.start_frame for clip in clips] == [8 * n for n in range(len(clips))]
            assert [(clip.start_s, clip.end_s) for clip in clips] == [
                (clip.start_s, clip.end_s) for clip in expected
            ]
            assert len(clips) == window.count(len(frames)), fps

    def test_frames_that_are_resampled_already_are_not_changed(self):
        window = ClipWindow(fps=10)
        once = list(iter_clips(numbered_frames(100), window))
        twice = list(iter_clips(resample(numbered_frames(100), fps=10), window))
        assert [shown(clip) for clip in once] == [shown(clip) for clip in twice]

    def test_batches_are_cut_from_the_given_frames(self):
        batches = list(iter_batches(numbered_frames(40), ClipWindow(fps=10), size=8))
        assert [s for batch in batches for s in batch.start_frames] == [0, 8, 16, 24]


class TestSteps:
    @pytest.mark.parametrize(("stride", "step"), [(8, 2), (1, 3), (5, 4), (40, 2)])
    def test_clip_contains_every_nth_frame(self, stride, step, prepared):
        window = ClipWindow(stride, frame_step=step)
        clips = list(iter_clips(numbered_frames(100), window))
        needed = set()
        for clip in clips:
            frames = [clip.start_frame + step * n for n in range(16)]
            assert shown(clip) == frames
            assert clip.end_s == pytest.approx((frames[-1] + 1) / 25)
            needed.update(frames)
        assert needed <= set(prepared)
        assert len(set(prepared)) == len(prepared)


class TestBatches:
    @pytest.mark.parametrize("size", [1, 3, 8, 32])
    def test_batches_contain_the_same_clips_in_order(self, size):
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


class TestWork:
    @pytest.mark.parametrize("stride", [1, 8, 16])
    def test_each_frame_is_prepared_once_for_all_its_clips(self, prepared, stride):
        list(iter_clips(numbered_frames(64), ClipWindow(stride)))
        assert prepared == list(range(64))

    def test_frames_between_clips_are_not_prepared(self, prepared):
        list(iter_clips(numbered_frames(60), ClipWindow(20)))
        assert prepared == [n for n in range(60) if n % 20 < 16]

    def test_clip_is_yielded_when_its_last_frame_is_read(self):
        read = []
        clips = iter_clips(numbered_frames(1000, read=read))
        next(clips)
        assert read == list(range(16))
        next(clips)
        assert read == list(range(24))

    def test_pictures_are_freed_when_no_clip_needs_them(self):
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
            # Only the loop variables refer to full-size pixels, not the frames of later clips.
            assert sum(ref() is not None for ref in alive) <= 2
        assert len(alive) == 200

    def test_repeated_picture_is_prepared_once(self, prepared):
        def doubled():
            for frame in numbered_frames(20):
                yield Frame(2 * frame.index, 0.0, 0.0, frame.picture)
                yield Frame(2 * frame.index + 1, 0.0, 0.0, frame.picture)

        list(iter_clips(doubled()))
        assert prepared == list(range(20))

    def test_clip_is_not_overwritten_by_the_next(self):
        clips = iter_clips(numbered_frames(40))
        first = next(clips)
        before = first.pixels.copy()
        list(clips)
        assert np.array_equal(first.pixels, before)


NTSC = Fraction(30000, 1001)


def timed_frames(stamps_s, *, last_s=0.04):
    """Yield frames that are shown from these times on, each with its own picture."""
    ends = [*stamps_s[1:], stamps_s[-1] + last_s]
    for index, (start, end) in enumerate(zip(stamps_s, ends, strict=True)):
        pixels = np.full((2, 2, 3), index % 256, np.uint8)
        yield Frame.from_pixels(index, float(start), float(end - start), pixels)


def resampled(frames, fps):
    """Return the index of the original frame that each resampled frame shows."""
    return [int(frame.pixels[0, 0, 0]) for frame in resample(frames, fps=fps)]


def regular(count, fps):
    return [float(number / Fraction(fps)) for number in range(count)]


def test_resampled_frame_is_the_one_shown_at_its_time():
    stamps = [0, 0.05, 0.10, 0.31, 0.40]
    assert resampled(timed_frames(stamps, last_s=0.2), 10) == [0, 2, 2, 2, 4, 4]


@pytest.mark.parametrize("fps", [25, 25.0, 29.97, NTSC, 12.5, 240])
def test_resampling_at_the_videos_own_rate_changes_nothing(fps):
    exact = Fraction(str(fps)) if isinstance(fps, float) else Fraction(fps)
    frames = timed_frames(regular(200, exact), last_s=float(1 / exact))
    assert resampled(frames, fps) == list(range(200))


@pytest.mark.parametrize("rounded", [np.round, np.floor, np.ceil])
def test_resampling_tolerates_stamps_in_whole_milliseconds(rounded):
    stamps = [float(rounded(number * 1001 / 30) / 1000) for number in range(250)]
    assert resampled(timed_frames(stamps, last_s=0.033), NTSC) == list(range(250))


def test_resampling_at_half_and_twice_the_rate():
    assert resampled(timed_frames(regular(10, 30), last_s=1 / 30), 15) == [0, 2, 4, 6, 8]
    assert resampled(timed_frames(regular(3, 30), last_s=1 / 30), 60) == [0, 0, 1, 1, 2, 2]


def test_resampled_frames_have_new_indices_and_times():
    frames = list(resample(timed_frames(regular(30, 30), last_s=1 / 30), fps=8))
    assert [frame.index for frame in frames] == list(range(8))
    assert [frame.time_s for frame in frames] == [number / 8 for number in range(8)]
    assert {frame.duration_s for frame in frames} == {1 / 8}


def test_resampled_times_do_not_drift():
    # Three hours of pictures that are shown for ten minutes each, then another.
    hours_s = 10_800.0
    stamps = np.arange(0, hours_s + 1, 600).tolist()
    for frame in resample(timed_frames(stamps, last_s=0.1), fps=NTSC):
        assert frame.time_s == frame.index * 1001 / 30000
    assert frame.time_s == pytest.approx(hours_s + 0.1, abs=0.04)


@pytest.mark.parametrize(
    ("stamps", "last_s", "made", "gap"),
    [
        ([0, 0.5, 601, 601.5], 0.1, 13, r"from 0\.50 s to 601\.00 s, for 600\.50 s"),
        ([0, 86_400], 0.1, 0, r"from 0\.00 s to 86400\.00 s, for 86400\.00 s"),
        ([0, 0.5], 700, 13, r"from 0\.50 s to 700\.50 s, for 700\.00 s"),
    ],
)
def test_picture_that_would_be_repeated_for_more_than_600_s_is_an_error(stamps, last_s, made, gap):
    frames = []
    with pytest.raises(VideoDecodeError, match=gap):
        frames.extend(resample(timed_frames(stamps, last_s=last_s), fps=25))
    assert len(frames) == made  # none of the gap


def test_picture_of_600_s_is_repeated():
    assert len(list(resample(timed_frames([0, 600], last_s=600), fps=1))) == 1200


def test_repeated_frames_share_one_picture():
    frames = list(resample(timed_frames([0, 0.01, 0.02, 0.1], last_s=0.1), fps=20))
    pictures = [frame.picture for frame in frames]
    assert len(pictures) == 4
    assert pictures[0] is not pictures[1]
    assert pictures[2] is pictures[3]


def test_resampled_frame_is_yielded_as_soon_as_it_is_known():
    read = []

    def frames():
        for frame in timed_frames(regular(100, 25)):
            read.append(frame.index)
            yield frame

    first = next(resample(frames(), fps=25))
    assert (first.index, read) == (0, [0, 1])


@pytest.mark.parametrize(
    "frames", [[], list(timed_frames([0], last_s=0.0005)), list(timed_frames([0], last_s=0))]
)
def test_resampling_no_frames_and_very_short_videos(frames):
    assert resampled(iter(frames), 25) == [0] * len(frames)


@pytest.mark.parametrize("fps", [0, -1, 0.001, 1001, float("nan"), float("inf"), "25", None, True])
def test_fps_out_of_range_is_an_error_before_any_frame(fps):
    with pytest.raises(UsageError, match="fps is .*; give a number"):
        resample(timed_frames([0]), fps=fps)


def test_resampling_a_video_of_variable_rate(tmp_path):
    path = write_timed(tmp_path / "a.mkv", [0, 40, 45, 200, 1000, 1040])
    original = list(decode_frames(path))
    frames = list(resample(decode_frames(path), fps=10))
    assert len(frames) == 11
    expected = [0, 2, 3, 3, 3, 3, 3, 3, 3, 3, 4]
    for frame, number in zip(frames, expected, strict=True):
        assert np.array_equal(frame.pixels, original[number].pixels)
