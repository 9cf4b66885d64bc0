"""Times of frames: stamps that are irregular, missing, wrong, restarted or hidden by edit lists."""

from fractions import Fraction

import av
import numpy as np
import pytest
from c3d_client.core.errors import VideoDecodeError
from c3d_client.video.clips import resample
from c3d_client.video.decode import decode_frames
from support.videos import write_edit_list, write_timed, write_video

IRREGULAR = [0, 40, 45, 200, 1000, 1010, 3000, 3040]  # milliseconds
REGULAR = [40 * number for number in range(30)]


def times(path, **options):
    return [frame.time_s for frame in decode_frames(path, **options)]


def assert_25_fps(path, frames=30):
    """Check that every frame is decoded, each 40 ms after the one before."""
    decoded = list(decode_frames(path))
    assert [frame.index for frame in decoded] == list(range(frames))
    assert [frame.time_s for frame in decoded] == pytest.approx(np.arange(frames) * 0.04)
    assert [frame.duration_s for frame in decoded] == pytest.approx([0.04] * frames)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.mp4", {}),
        ("a.mkv", {}),
        ("a.ts", {}),
        ("a.flv", {}),
        ("a.wmv", {"codec": "wmv2"}),
        ("a.gif", {"codec": "gif", "pix_fmt": "rgb8"}),
        ("a.apng", {"codec": "apng", "pix_fmt": "rgb24"}),
    ],
)
def test_frame_of_variable_rate_lasts_until_the_next(tmp_path, name, options):
    # The time base of GIF is a hundredth of a second.
    stamps = [10 * stamp for stamp in IRREGULAR] if name == "a.gif" else IRREGULAR
    decoded = list(decode_frames(write_timed(tmp_path / name, stamps, **options)))
    assert [frame.time_s for frame in decoded] == pytest.approx(np.array(stamps) / 1000)
    shown = [frame.duration_s for frame in decoded]
    assert shown[:-1] == pytest.approx(np.diff(stamps) / 1000)
    assert 0 < shown[-1] < 1


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.h264", "libx264"), ("a.hevc", "libx265"), ("a.avi", "libx264"), ("a.m2v", "mpeg2video")],
)
def test_frames_without_stamps_are_evenly_spaced(tmp_path, name, codec):
    options = {"x265-params": "log-level=none:pools=none"} if codec == "libx265" else {}
    path = tmp_path / name
    assert_25_fps(
        write_timed(path, range(30), time_base=Fraction(1, 25), codec=codec, options=options)
    )
    assert times(path, threads=1) == times(path)


@pytest.mark.parametrize("start_ms", [-200, 5000])
@pytest.mark.parametrize("name", ["a.mkv", "a.mp4", "a.ts"])
def test_times_begin_at_the_first_frame_shown(tmp_path, name, start_ms):
    path = write_timed(tmp_path / name, [start_ms + stamp for stamp in REGULAR])
    # The edit list of MP4 hides frames before 0.
    assert_25_fps(path, 25 if name == "a.mp4" and start_ms < 0 else 30)


def test_stamps_of_a_transport_stream_may_overflow(tmp_path):
    start_ms = 2**33 * 1000 // 90000 - 600
    assert_25_fps(write_timed(tmp_path / "a.ts", [start_ms + stamp for stamp in REGULAR]))


@pytest.mark.parametrize("second_starts_ms", [0, 3_600_000])
@pytest.mark.parametrize("frames", [30, 12])
def test_concatenated_transport_streams_have_continuous_times(tmp_path, frames, second_starts_ms):
    first = write_timed(tmp_path / "1.ts", REGULAR[:frames])
    second = write_timed(tmp_path / "2.ts", [second_starts_ms + t for t in REGULAR[:frames]])
    both = tmp_path / "both.ts"
    both.write_bytes(first.read_bytes() + second.read_bytes())
    assert_25_fps(both, 2 * frames)


def overwrite_stamps(path, stamps_ms):
    """Overwrite the 16-bit stamps of some blocks of a Matroska video."""
    data = bytearray(path.read_bytes())
    for old, new in stamps_ms.items():
        # A SimpleBlock: its ID, two bytes of size, track 1, the stamp.
        stamp = old.to_bytes(2, "big")
        blocks = (i for i in range(len(data)) if data[i] == 0xA3 and data[i + 3 : i + 4] == b"\x81")
        (offset,) = (i for i in blocks if data[i + 4 : i + 6] == stamp)
        data[offset + 4 : offset + 6] = new.to_bytes(2, "big")
    path.write_bytes(data)
    return path


def test_times_never_decrease(tmp_path):
    path = write_timed(tmp_path / "a.mkv", REGULAR, options={"bf": "0"})
    expected = np.array(REGULAR) / 1000
    expected[11], expected[20] = 0.4, 0.76
    assert times(overwrite_stamps(path, {440: 200, 800: 760})) == pytest.approx(expected)


def test_stamps_in_decoding_order_are_corrected(tmp_path):
    path, wrong = write_timed(tmp_path / "a.mp4", REGULAR), tmp_path / "wrong.mp4"
    with av.open(str(path)) as source, av.open(str(wrong), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.pts, packet.stream = packet.dts, stream
                target.mux(packet)
    # Both stamps may be wrong for the first few frames, and an edit list hides the last frame.
    assert np.diff(times(wrong)[3:25]) == pytest.approx(0.04)


DAY_MS = 86_400_000


@pytest.mark.parametrize("at", [1, 12])
@pytest.mark.parametrize(
    ("name", "codec", "jump_ms"),
    [
        *((name, "libx264", DAY_MS) for name in ("a.mkv", "a.mp4", "a.mov", "a.nut", "a.flv")),
        ("a.wmv", "wmv2", DAY_MS),
        ("a.avi", "mpeg4", 700_000),
    ],
)
def test_clock_that_was_set_is_kept_and_no_picture_fills_the_gap(
    tmp_path, name, codec, jump_ms, at
):
    stamps = REGULAR[:at] + [jump_ms + stamp for stamp in REGULAR[at:]]
    path = tmp_path / name
    base = Fraction(1, 1000)
    if name == "a.avi":  # it has no stamps, but an empty packet for each frame that is left out
        stamps, base = [stamp // 40 for stamp in stamps], Fraction(1, 25)
    write_timed(path, stamps, codec=codec, time_base=base, options={"bf": "0"})
    expected = [stamp * float(base) for stamp in stamps]
    assert times(path) == pytest.approx(expected, abs=0.002)
    gap = f"from {expected[at - 1]:.2f} s to {expected[at]:.2f} s, for "
    with pytest.raises(VideoDecodeError, match=gap) as caught:
        list(resample(decode_frames(path), fps=25))
    assert caught.value.source == str(path)


def test_clock_of_a_transport_stream_continues_after_a_jump(tmp_path):
    stamps = REGULAR[:12] + [DAY_MS // 2 + stamp for stamp in REGULAR[12:]]
    path = write_timed(tmp_path / "a.ts", stamps, options={"bf": "0"})
    assert_25_fps(path)
    assert len(list(resample(decode_frames(path), fps=25))) == 30


@pytest.mark.parametrize(("name", "codec"), [("a.mkv", "libx264"), ("a.mp4", "mpeg4")])
def test_picture_of_ten_minutes_is_repeated_at_a_frame_rate(tmp_path, name, codec):
    path = write_timed(tmp_path / name, [0, 600_000], codec=codec, options={"bf": "0"})
    assert len(list(resample(decode_frames(path), fps=1))) == 601


def read_number(pixels):
    """Return the number that videos.index_frame drew, from a frame of full size."""
    row = pixels[pixels.shape[0] // 2, :, 0]
    return sum(int(row[int((bit + 0.5) * len(row) / 10)] > 127) << bit for bit in range(10))


@pytest.mark.parametrize(
    ("edits", "shown"),
    [
        # Hides the first second, to the middle of a group of pictures.
        ([(1400, 1024 + 12800)], range(25, 60)),
        ([(1000, 1024)], range(25)),
        ([(500, -1), (2400, 1024)], range(60)),  # begins with half a second of nothing
        ([(500, 1024), (500, 1024 + 12800)], [*range(13), *range(25, 38)]),
    ],
)
def test_frames_hidden_by_an_edit_list_are_left_out(tmp_path, edits, shown):
    path = write_video(tmp_path / "video.mp4", 60)
    decoded = list(decode_frames(write_edit_list(tmp_path / "edited.mp4", path, edits)))
    assert [read_number(frame.pixels) for frame in decoded] == list(shown)
    assert [frame.index for frame in decoded] == list(range(len(shown)))
    assert decoded[0].time_s == 0


class TestIntactVideosAreNotCutShort:
    """Intact videos whose container has another duration than the video stream."""

    @pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts", "a.flv", "a.mov"])
    def test_audio_is_longer(self, tmp_path, name):
        assert_25_fps(write_timed(tmp_path / name, REGULAR, sound_s=8))

    @pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts", "a.flv"])
    def test_video_begins_late(self, tmp_path, name):
        assert_25_fps(write_timed(tmp_path / name, [5000 + stamp for stamp in REGULAR], sound_s=8))

    @pytest.mark.parametrize(
        ("name", "codec", "pix_fmt"),
        [
            ("a.mp4", "libx264", "yuv420p"),
            ("a.mkv", "libx264", "yuv420p"),
            ("a.avi", "mpeg4", "yuv420p"),
            ("a.gif", "gif", "rgb8"),
            ("a.mjpeg", "mjpeg", "yuvj420p"),
            ("a.png", "png", "rgb24"),
        ],
    )
    def test_single_frame(self, tmp_path, name, codec, pix_fmt):
        base = Fraction(1, 25)
        path = write_timed(tmp_path / name, [0], time_base=base, codec=codec, pix_fmt=pix_fmt)
        assert_25_fps(path, 1)

    def test_still_picture_with_audio(self, tmp_path):
        assert times(write_timed(tmp_path / "a.mp4", [0], sound_s=5)) == [0]

    def test_duration_estimated_from_the_bit_rate(self, tmp_path):
        path = tmp_path / "a.m2v"
        rate = {"b": "400k", "maxrate": "400k", "minrate": "400k", "bufsize": "200k"}
        base = Fraction(1, 25)
        write_timed(path, range(30), time_base=base, codec="mpeg2video", options=rate)
        heads = path.read_bytes().split(b"\x00\x00\x01\xb3")
        # The rate is 18 bits after four bytes, in units of 400 bits a second.
        slow = [head[:4] + (100 >> 2).to_bytes(2, "big") + head[6:] for head in heads[1:]]
        path.write_bytes(b"\x00\x00\x01\xb3".join([heads[0], *slow]))
        with av.open(str(path)) as container:
            assert container.duration > 5 * av.time_base
        assert_25_fps(path)
