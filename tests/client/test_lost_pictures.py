"""Lost and damaged pictures are found, sound videos have none, and clips are left out."""

import re
import threading
from fractions import Fraction
from types import SimpleNamespace

import av
import av.logging
import numpy as np
import pytest
from c3d_client import C3DClient, ClipWindow, iter_clips, read_features
from c3d_client.core.errors import UsageError, VideoDecodeError
from c3d_client.core.provenance import Provenance
from c3d_client.job import ExtractJob
from c3d_client.video.clips import resample
from c3d_client.video.damage import DAMAGED, Accounts, _Units, marked
from c3d_client.video.decode import Frame, decode_frames, decode_source
from c3d_client.video.h264 import PictureNumbers
from c3d_client.video.sources import expand
from support.videos import (
    changed,
    dropped,
    edit_packets,
    keyframes,
    moving_texture,
    overwritten,
    write_edit_list,
    write_field_pairs,
    write_timed,
    write_video,
)

FRAMES = 48
EVERY_40_MS = [40 * number for number in range(FRAMES)]
X264 = {"x264-params": "keyint=12:min-keyint=12:scenecut=0"}
X264_OPEN = {"x264-params": "keyint=12:min-keyint=12:scenecut=0:open-gop=1:bframes=3"}
X265 = {"x265-params": "log-level=none:keyint=12:min-keyint=12:scenecut=0"}
X265_OPEN = {"x265-params": "log-level=none:keyint=12:min-keyint=12:open-gop=1:bframes=4:radl=0"}


def write(path, codec, *, options=None, stamps=EVERY_40_MS, pix_fmt="yuv420p", **more):
    """Write a video with a keyframe at least every twelve frames."""
    # The number of threads decides x264's bytes, and with them whether noise in them is noticed.
    options = {"g": "12", "threads": "2", **(options or {})}
    # AVI and ASF cannot store other intervals than whole frames of a small time base.
    base = Fraction(1, 25) if stamps is EVERY_40_MS else Fraction(1, 1000)
    if stamps is EVERY_40_MS:
        stamps = range(FRAMES)
    return write_timed(
        path,
        stamps,
        codec=codec,
        options=options,
        pix_fmt=pix_fmt,
        time_base=base,
        draw=moving_texture,
        **more,
    )


def outcome(path, **options):
    """Return how many frames are intact and how many are damaged, or the error's message."""
    try:
        frames = list(decode_frames(path, **options))
    except VideoDecodeError as error:
        return error.reason
    damaged = sum(frame.stretch == DAMAGED for frame in frames)
    return len(frames) - damaged, damaged


def counts(message, case=""):
    """Return n and m of "n of m pictures could not be decoded"."""
    found = re.search(r"(\d+) of (\d+) pictures could not be decoded", str(message))
    assert found, f"{case}: {message}"
    return int(found[1]), int(found[2])


def pixels(path, **options):
    return [(frame.pixels.tobytes(), frame.stretch) for frame in decode_frames(path, **options)]


def assert_intact_frames_are_right(sound, damaged, case):
    """Every frame that is not marked as damaged equals one of the sound video, in order."""
    expected = [content for content, _ in pixels(sound)]
    intact = [content for content, stretch in pixels(damaged, damage="skip") if stretch != DAMAGED]
    positions = [expected.index(content) for content in intact if content in expected]
    assert len(positions) == len(intact), case
    assert positions == sorted(positions), case
    return len(intact)


# Codec, options, pixel format and containers.
VIDEOS = [
    ("libx264", X264, "yuv420p", ("mp4", "mkv", "avi", "flv")),
    ("libx264", X264_OPEN, "yuv420p", ("mp4", "mkv", "avi", "ts")),
    ("libx265", X265, "yuv420p", ("mp4", "mkv", "ts")),
    ("libx265", X265_OPEN, "yuv420p", ("mp4", "mkv", "ts")),
    ("mpeg4", {}, "yuv420p", ("avi", "mp4", "mkv")),
    ("mpeg4", {"bf": "2"}, "yuv420p", ("avi", "mp4", "mkv")),
    ("msmpeg4v2", {}, "yuv420p", ("avi", "asf")),
    ("wmv2", {}, "yuv420p", ("avi", "wmv")),
    ("flv", {}, "yuv420p", ("flv", "avi", "nut")),
    ("h263", {}, "yuv420p", ("avi", "mov", "3gp")),
    ("mpeg2video", {"bf": "2"}, "yuv420p", ("ts", "mkv", "mp4")),
    ("libvpx", {}, "yuv420p", ("webm", "avi", "ivf")),
    ("libvpx-vp9", {"cpu-used": "8"}, "yuv420p", ("webm", "mp4", "ivf")),
    ("mjpeg", {}, "yuvj420p", ("avi", "mov", "mkv")),
    ("ffv1", {"level": "3", "slicecrc": "1"}, "yuv420p", ("avi", "mkv", "nut")),
    ("png", {}, "rgb24", ("avi", "mov", "nut")),
    ("prores_ks", {}, "yuv422p10le", ("mov", "mkv")),
]


@pytest.mark.long
def test_overwritten_packets_are_damage_and_the_other_frames_are_right(tmp_path):
    for codec, options, pix_fmt, suffixes in VIDEOS:
        for suffix in suffixes:
            case = f"{codec} {options} {suffix}"
            sound = write(tmp_path / f"a.{suffix}", codec, options=options, pix_fmt=pix_fmt)
            assert outcome(sound) == (FRAMES, 0), case
            assert outcome(sound, damage="skip") == (FRAMES, 0), case
            # Most decoders accept some noise in a packet whose start is intact; H.264's does not,
            # and without the start a transport stream has no packet.
            edit = overwritten(16, start=0.3 if codec == "libx264" else 0.0)
            damaged = edit_packets(sound, tmp_path / f"b.{suffix}", edit)
            lost, pictures = counts(outcome(damaged, threads=1), case)
            assert 1 <= lost <= 12, case
            assert FRAMES - 1 <= pictures <= FRAMES, case
            assert isinstance(outcome(damaged), str), f"{case}, all threads"
            # Of H.264 and MPEG-4 in AVI the place of a lost picture is known to 16 frames.
            fewest = FRAMES - 30 if suffix == "avi" else FRAMES - 20
            assert assert_intact_frames_are_right(sound, damaged, case) >= fewest, case


def test_damage_in_av1(tmp_path):
    """Its packets cannot be copied with PyAV, so the bytes of one are changed in the file.

    dav1d notices damage in headers only.
    """
    options = {"preset": "12", "svtav1-params": "keyint=12"}
    for suffix in ("mp4", "mkv", "webm"):
        sound = write(tmp_path / f"a.{suffix}", "libsvtav1", options=options)
        assert_sound(sound, FRAMES, suffix)
        packet = bytes(packets_of(sound)[keyframes(sound)[1]])
        content = bytearray(sound.read_bytes())
        start = content.index(packet) + 8
        content[start : start + len(packet) - 8] = bytes(len(packet) - 8)
        damaged = tmp_path / f"b.{suffix}"
        damaged.write_bytes(content)
        for threads in (0, 1):
            lost, _ = counts(outcome(damaged, threads=threads))
            assert 1 <= lost <= 14, suffix
        assert assert_intact_frames_are_right(sound, damaged, suffix) >= 20


def test_lost_keyframe_of_hevc_is_counted(tmp_path):
    for suffix in ("mkv", "mp4", "ts", "mov"):
        whole = write(tmp_path / f"a.{suffix}", "libx265", options=X265)
        lost = edit_packets(whole, tmp_path / f"lost.{suffix}", dropped(keyframes(whole)[2]))
        for threads in (0, 1):
            message = outcome(lost, threads=threads)
            assert message.startswith("is damaged: decoding stopped after 2"), message
            assert counts(message)[0] in (11, 12), suffix
            assert counts(message)[1] in (FRAMES - 1, FRAMES), suffix


def test_pictures_missing_at_the_end_are_damage(tmp_path):
    """The last keyframe is lost, so that no picture follows the lost ones."""
    for codec, options in (("libx264", X264), ("libx265", X265)):
        for suffix in ("mkv", "mp4", "ts"):
            whole = write(tmp_path / f"a.{suffix}", codec, options=options)
            last = keyframes(whole)[-1]
            lost = edit_packets(whole, tmp_path / f"lost.{suffix}", dropped(last))
            message = outcome(lost, threads=1)
            assert 8 <= counts(message)[0] <= 12, f"{codec} {suffix}"
            assert " frames, at 1.4" in message or " frames, at 1.3" in message, message
            intact, _ = outcome(lost, damage="skip")
            assert 30 <= intact <= 39, f"{codec} {suffix}"


# What FFmpeg only logs: codec, options, pixel format, containers, and the message.
LOGGED = [
    ("ffv1", {"level": "3", "slicecrc": "1"}, "yuv420p", ("avi", "mkv", "nut"), "slice CRC"),
    ("mjpeg", {}, "yuvj420p", ("avi", "mov", "mkv"), "(error|overread)"),
    ("gif", {}, "rgb8", ("gif",), "LZW decode failed"),
    ("dvvideo", {}, "yuv420p", ("avi", "mov", "dv"), "AC EOB marker is absent"),
    ("h261", {}, "yuv420p", ("avi", "nut"), "Error at MB"),
]


def logged_videos(folder):
    """Yield a case's name, its sound video, its damaged video and the message."""
    for codec, options, pix_fmt, suffixes, message in LOGGED:
        for suffix in suffixes:
            path = folder / f"{codec}.{suffix}"
            if codec == "dvvideo":
                write_timed(
                    path, range(20), codec=codec, time_base=Fraction(1, 25), width=720, height=576
                )
            else:
                write(path, codec, options=options, pix_fmt=pix_fmt)
            damaged = folder / f"{codec}-damaged.{suffix}"
            yield f"{codec} {suffix}", path, edit_packets(path, damaged, changed(16)), message


@pytest.mark.long
def test_damage_that_ffmpeg_only_logs_is_an_error(tmp_path):
    for case, sound, damaged, message in logged_videos(tmp_path):
        number = 20 if "dvvideo" in case else FRAMES
        assert outcome(sound) == (number, 0), case
        for threads in (0, 1):
            reason = outcome(damaged, threads=threads)
            expected = (
                rf"is damaged: decoding stopped after 16 frames, at 0\.60 s \({message}.*; "
                rf"1 of {number} pictures could not be decoded\)"
            )
            assert re.fullmatch(expected, str(reason)), f"{case}: {reason}"
        intact, _ = outcome(damaged, damage="skip")
        # The next keyframe is the 24th frame, or the next frame; a GIF has none.
        assert intact == {"gif": 16, "ffv1": 40, "h261": 40}.get(case.split()[0], number - 1), case
        assert_intact_frames_are_right(sound, damaged, case)


@pytest.mark.long
def test_cinepak_is_damaged_where_its_packet_ends_early(tmp_path):
    for suffix in ("avi", "mov", "nut"):
        sound = write(tmp_path / f"a.{suffix}", "cinepak", pix_fmt="rgb24")
        assert outcome(sound) == (FRAMES, 0), suffix
        cut = edit_packets(
            sound,
            tmp_path / f"b.{suffix}",
            lambda number, content: content[: len(content) // 2] if number == 16 else content,
        )
        assert re.search(r"cinepak_decode failed; \d of 48", str(outcome(cut))), suffix
        assert outcome(cut, damage="skip")[0] < FRAMES, suffix


class TestLog:
    """Reading FFmpeg's log changes nothing for others who use it."""

    @pytest.fixture
    def damaged(self, tmp_path):
        *_, last = (video for _, _, video, _ in logged_videos(tmp_path))
        return last

    @pytest.fixture(autouse=True)
    def restored(self):
        yield
        av.logging.set_level(None)
        av.logging.set_skip_repeated(True)

    @pytest.mark.parametrize("level", [None, av.logging.PANIC, av.logging.ERROR, av.logging.DEBUG])
    def test_level_is_restored(self, damaged, level):
        av.logging.set_level(level)
        with av.logging.Capture(local=False):
            for _ in decode_frames(damaged, damage="skip"):
                assert av.logging.get_level() == level
                assert av.logging.get_skip_repeated()
        assert av.logging.get_level() == level

    def test_own_captures_get_the_messages_that_their_level_allows(self, damaged):
        for level, expected in ((av.logging.ERROR, True), (av.logging.FATAL, False)):
            av.logging.set_level(level)
            with av.logging.Capture() as entries:
                assert "Error at MB" in outcome(damaged)
            assert any("Error at MB" in text for _, _, text in entries) == expected
            assert {name for _, name, _ in entries} <= {"h261"}

    def test_nothing_is_logged_by_default(self, damaged, capfd, caplog):
        assert "Error at MB" in outcome(damaged)
        assert not caplog.records
        assert capfd.readouterr() == ("", "")

    def test_repeated_messages_are_not_lost(self, damaged):
        """PyAV drops a message that equals the one before, from whichever video it came."""
        first = outcome(damaged)
        assert "Error at MB" in first
        assert outcome(damaged) == first
        av.logging.set_level(av.logging.ERROR)
        with av.logging.Capture():
            av.logging.log(av.logging.ERROR, "other", "Error at MB: 1")
            av.logging.log(av.logging.ERROR, "other", "Error at MB: 1")
            assert outcome(damaged) == first

    def test_threads_get_their_own_messages(self, damaged, tmp_path):
        sound = tmp_path / "h261.nut"
        results = {}

        def decode(number, path):
            results[number] = [outcome(path) for _ in range(3)]

        videos = [damaged, sound] * 2
        threads = [
            threading.Thread(target=decode, args=(number, path))
            for number, path in enumerate(videos)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for number, path in enumerate(videos):
            for result in results[number]:
                assert (result == (FRAMES, 0)) == (path == sound)
        assert av.logging.get_level() is None


def assert_sound(path, frames, case, *, left_out=0):
    """No policy and no number of threads finds damage."""
    for options in ({"threads": 1}, {"threads": 0}, {"damage": "skip"}):
        accounts = Accounts()
        found = [frame.stretch for frame in decode_source(path, accounts=accounts, **options)]
        assert found == [0] * frames, f"{case} {options}"
        assert accounts.left_out == left_out, f"{case} {options}"
        assert not accounts.summary, f"{case} {options}"


def packets_of(path):
    with av.open(str(path)) as container:
        return [packet for packet in container.demux(video=0) if packet.size]


class TestSoundVideos:
    """Packets without pictures that are no damage, and pictures at irregular times."""

    @pytest.mark.long
    @pytest.mark.parametrize("case", VIDEOS, ids=lambda case: f"{case[0]}-{'-'.join(case[3])}")
    @pytest.mark.parametrize("frames", [1, 2, 3, 17])
    def test_short_and_irregular(self, tmp_path, case, frames):
        codec, options, pix_fmt, suffixes = case
        jitter = [40 * n + 9 * (n % 3) + 700 * (n > 4) + 33 * (n > 9) for n in range(frames)]
        for suffix in suffixes:
            for stamps in (range(0, 40 * frames, 40), jitter):
                try:
                    path = write(
                        tmp_path / f"a.{suffix}",
                        codec,
                        options=options,
                        pix_fmt=pix_fmt,
                        stamps=stamps,
                    )
                except av.error.ArgumentError:  # the encoder or the muxer cannot write these times
                    assert codec in ("mpeg2video", "libx265"), f"{codec} {suffix}"
                    continue
                assert_sound(path, frames, suffix)

    @pytest.mark.long
    def test_alternate_references_of_vp8(self, tmp_path):
        """Their headers say that they are not shown; FFmpeg's encoder makes them in two passes."""

        def hidden(number, content):
            return bytes([content[0] & ~0x10]) + content[1:] if number % 10 == 5 else content

        for suffix in ("webm", "avi", "ivf", "nut"):
            whole = write(tmp_path / f"whole.{suffix}", "libvpx")
            path = edit_packets(whole, tmp_path / f"a.{suffix}", hidden)
            assert_sound(path, FRAMES - len(range(5, FRAMES, 10)), suffix)

    def test_hidden_frames_of_vp9_in_packets_of_their_own(self, tmp_path):
        options = {"auto-alt-ref": "1", "lag-in-frames": "25", "b": "200k", "cpu-used": "4"}
        whole = write(tmp_path / "whole.webm", "libvpx-vp9", options=options)
        for suffix in ("avi", "nut"):
            path = tmp_path / f"a.{suffix}"
            with av.open(str(whole)) as source, av.open(str(path), "w") as output:
                stream = source.streams.video[0]
                split = av.bitstream.BitStreamFilterContext("vp9_superframe_split", stream)
                copy = output.add_stream_from_template(stream)
                for packet in source.demux(stream):
                    for part in split.filter(packet if packet.size else None):
                        part.stream = copy
                        if part.pts is not None:
                            part.dts = None
                            output.mux(part)
            if len(packets_of(path)) == FRAMES:
                continue  # the muxer joined them
            assert_sound(path, FRAMES, suffix)

    def test_packed_b_frames_of_divx(self, baseball):
        for options in ({"threads": 1}, {"damage": "skip"}):
            frames = list(decode_frames(baseball, **options))
            assert {frame.stretch for frame in frames} == {0}
            assert len(frames) == len(packets_of(baseball))

    def test_mpeg4_pictures_that_are_not_coded(self, tmp_path):
        """An encoder that drops a picture may write a packet that only repeats the one before."""

        def dropped_by_the_encoder(number, content):
            if number % 5 != 4:
                return content
            # Start code; P, no whole second, marker, 5 bits of time, marker, not coded, stuffing.
            bits = f"0101{number % 25:05b}1001111"
            return b"\0\0\1\xb6" + int(bits, 2).to_bytes(2, "big")

        for suffix in ("avi", "mp4", "mkv"):
            whole = write(tmp_path / f"whole.{suffix}", "mpeg4", options={"g": "1"})
            path = edit_packets(whole, tmp_path / f"a.{suffix}", dropped_by_the_encoder)
            shown = FRAMES - len(range(4, FRAMES, 5))
            assert_sound(path, shown, suffix)

    def test_field_pairs(self, tmp_path):
        pairs = write_field_pairs(tmp_path / "a.h264", 20)
        assert len(packets_of(pairs)) == 40
        assert_sound(pairs, 20, "h264")
        for suffix in ("ts", "mkv", "mp4", "avi", "nut"):
            for frames in (1, 2, 20):
                path = write_field_pairs(tmp_path / "a.h264", frames)
                path = edit_packets(
                    path, tmp_path / f"a.{suffix}", dropped(), interval=Fraction(1, 50)
                )
                assert_sound(path, frames, f"{suffix} {frames}")
            lost = edit_packets(pairs, tmp_path / f"lost.{suffix}", overwritten(20, start=0.1))
            assert isinstance(outcome(lost), str), suffix

    def test_interlaced_and_intra_refresh(self, tmp_path):
        for codec, options in (
            ("libx264", {"x264-params": "interlaced=1:keyint=12"}),
            ("libx264", {"x264-params": "intra-refresh=1:keyint=12"}),
            ("libx264", {"x264-params": "bframes=16:b-adapt=0:ref=16:b-pyramid=normal"}),
            ("libx265", {"x265-params": "log-level=none:intra-refresh=1:keyint=12"}),
            ("mpeg2video", {"flags": "+ilme+ildct", "bf": "2"}),
        ):
            for suffix in ("mp4", "mkv", "ts"):
                path = write(tmp_path / f"a.{suffix}", codec, options=options)
                assert_sound(path, FRAMES, f"{codec} {options} {suffix}")

    def test_edit_lists(self, tmp_path):
        """Packets that the file says are not to be shown."""
        for codec, options in (("libx264", X264), ("libx264", X264_OPEN), ("libx265", X265)):
            whole = write_video(tmp_path / "a.mp4", 60, codec=codec, options=options)
            for edits, shown in (
                ([(1400, 1024 + 12800)], 35),
                ([(1000, 1024)], 25),
                ([(500, 1024), (500, 1024 + 12800)], 26),
            ):
                cut = write_edit_list(tmp_path / "b.mp4", whole, edits)
                assert any(packet.is_discard for packet in packets_of(cut)), edits
                assert_sound(cut, shown, f"{codec} {edits}")

    def test_empty_packets_of_avi(self, tmp_path):
        """AVI has a constant rate; empty packets make pictures last longer."""
        stamps = [40 * n + 400 * (n > 20) for n in range(FRAMES)]
        for codec, options in (("mpeg4", {}), ("mpeg4", {"bf": "2"}), ("libx264", X264)):
            path = write_timed(
                tmp_path / "a.avi", [stamp // 40 for stamp in stamps], codec=codec,
                options=options, time_base=Fraction(1, 25), draw=moving_texture,
            )  # fmt: skip
            assert_sound(path, FRAMES, codec)


class TestTransportStreams:
    """Their counters show lost packets."""

    CODECS = (
        ("libx264", X264),
        ("libx264", X264_OPEN),
        ("libx265", X265),
        ("mpeg2video", {"bf": "2"}),
    )

    @staticmethod
    def packets(path, step):
        """Return the packets, and the numbers of those of the video and of its pictures' starts."""
        content = path.read_bytes()
        packets = [content[at : at + step] for at in range(0, len(content), step)]
        with av.open(str(path)) as container:
            pid = container.streams.video[0].id
        heads = [int.from_bytes(packet[step - 188 :][:4], "big") for packet in packets]
        video = [number for number, head in enumerate(heads) if head >> 8 & 0x1FFF == pid]
        return packets, video, [number for number in video if heads[number] >> 22 & 1]

    @pytest.mark.long
    def test_lost_packets_are_damage(self, tmp_path):
        for codec, options in self.CODECS:
            for suffix, step in (("ts", 188), ("m2ts", 192)):
                case = f"{codec} {options} {suffix}"
                sound = write(tmp_path / f"a.{suffix}", codec, options={"g": "12", **options})
                packets, video, starts = self.packets(sound, step)
                assert len(starts) == FRAMES, case
                key = starts[keyframes(sound)[2]]
                after = {number: video[video.index(number) + 1] for number in video[:-1]}
                for name, lost in (
                    ("the first picture", after[starts[0]]),
                    ("a keyframe", after[key]),
                    ("a keyframe's start", key),
                    ("the picture after it", starts[keyframes(sound)[2] + 1]),
                ):
                    path = tmp_path / f"b.{suffix}"
                    path.write_bytes(b"".join(packets[:lost] + packets[lost + 1 :]))
                    for threads in (0, 1):
                        message = outcome(path, threads=threads)
                        assert str(message).startswith("is damaged"), f"{case} {name} {message}"
                    intact = assert_intact_frames_are_right(sound, path, f"{case} {name}")
                    assert intact >= FRAMES - 28, f"{case} {name}"

    def test_joined_streams_are_sound(self, tmp_path):
        """The counters begin again, which marks the last packet before."""
        for codec, options in self.CODECS:
            one = write(tmp_path / "a.ts", codec, options=options).read_bytes()
            shorter = {name: text.replace("=12", "=8") for name, text in options.items()}
            other = write(tmp_path / "b.ts", codec, options={"g": "8", **shorter}).read_bytes()
            marked = 0
            for parts in ((one, other), (other, one), (one, one, one)):
                path = tmp_path / "c.ts"
                path.write_bytes(b"".join(parts))
                marked += sum(packet.is_corrupt for packet in packets_of(path))
                assert_sound(path, FRAMES * len(parts), codec)
            assert marked, codec

    def test_counters_that_do_not_count_are_no_damage(self, tmp_path):
        for codec, options in self.CODECS:
            path = write(tmp_path / "a.ts", codec, options=options)
            packets, video, _ = self.packets(path, 188)
            for number in video:
                packet = packets[number]
                packets[number] = packet[:3] + bytes([packet[3] & 0xF0]) + packet[4:]
            path.write_bytes(b"".join(packets))
            assert sum(packet.is_corrupt for packet in packets_of(path)) > FRAMES // 2
            assert_sound(path, FRAMES, codec)

    def test_marks_of_other_containers(self):
        """Their packets bear their own marks; the caller decides about the last one."""
        for kinds, expected in (
            ("K..!..K", [3]),  # K for a keyframe, ! for a mark, # for both
            ("K..!K..", []),
            ("K.!!K..", [2]),
            ("K..!#..K", [3, 4]),  # a keyframe that is marked too
            ("K....!", []),
            ("!!!!!!", []),
        ):
            packets = [
                SimpleNamespace(is_keyframe=kind in "K#", is_corrupt=kind in "!#", pos=None)
                for kind in kinds
            ]
            found = list(marked(packets))
            assert [packet for packet, _ in found] == packets, kinds
            assert [number for number, (_, is_hit) in enumerate(found) if is_hit] == expected, kinds


def reference_pictures(path):
    """Return the numbers of the packets of H.264 that others refer to, without keyframes."""
    found = []
    for number, packet in enumerate(packets_of(path)):
        units = _Units("h264", packet.stream.codec_context.extradata or b"")
        content = bytes(packet)
        slices = [content[at] for at in units._starts(content) if content[at] & 31 in (1, 5)]
        if slices[0] >> 5 & 3 and not packet.is_keyframe:
            found.append(number)
    return found


class TestAbsentPictures:
    """H.264 numbers its pictures, so that it shows which are absent."""

    VARIANTS = (
        "keyint=12:min-keyint=12:scenecut=0:bframes=0",
        "keyint=12:min-keyint=12:scenecut=0:bframes=3:b-pyramid=normal:weightp=2",
        "keyint=12:min-keyint=12:scenecut=0:bframes=3:b-pyramid=strict:open-gop=1",
        "keyint=12:min-keyint=12:scenecut=0:bframes=2:interlaced=1",
        "keyint=12:min-keyint=12:scenecut=0:slices=4:ref=1:bframes=1",
    )

    @pytest.mark.long
    def test_absent_references_are_damage_and_the_other_frames_are_right(self, tmp_path):
        for variant in self.VARIANTS:
            for suffix in ("mp4", "mkv", "ts", "flv", "avi"):
                case = f"{variant} {suffix}"
                options = {"x264-params": variant}
                sound = write(tmp_path / f"a.{suffix}", "libx264", options=options)
                first, second = reference_pictures(sound)[3:5]
                for absent in ((first,), (first, second)):
                    if set(range(first, second)) & set(keyframes(sound)):
                        continue
                    path = edit_packets(sound, tmp_path / f"b.{suffix}", dropped(*absent))
                    for threads in (0, 1):
                        message = outcome(path, threads=threads)
                        assert message.startswith("is damaged"), case
                        number = f"at least {len(absent)} (of {FRAMES} pictures )?(is|are) missing"
                        assert re.search(number, message), f"{case} {message}"
                    assert_intact_frames_are_right(sound, path, case)
                    intact, damaged = outcome(path, damage="skip")
                    assert 1 <= damaged <= 28, case
                    assert 0 <= FRAMES - len(absent) - intact - damaged <= 1, case

    def test_parameters_that_change_within_the_video(self, tmp_path):
        """Pictures of the second part have numbers of another size, which FLV writes before it."""
        parts = []
        for references in (16, 1):
            options = {"x264-params": f"{self.VARIANTS[0]}:ref={references}"}
            path = write(tmp_path / f"{references}.flv", "libx264", options=options)
            parts.append(path.read_bytes())
        tags = bytearray()
        at = 13  # after the header
        while at < len(parts[1]):
            size = 11 + int.from_bytes(parts[1][at + 1 : at + 4], "big") + 4
            tag = bytearray(parts[1][at : at + size])
            time_ms = int.from_bytes(tag[4:7], "big") + 40 * FRAMES
            tag[4:7] = time_ms.to_bytes(3, "big")
            tags += tag if tag[0] == 9 else b""
            at += size
        path = tmp_path / "joined.flv"
        path.write_bytes(parts[0] + tags)
        assert any(packet.has_sidedata("new_extradata") for packet in packets_of(path))
        assert_sound(path, 2 * FRAMES, "flv")

    @pytest.mark.long
    def test_gaps_before_keyframes_are_no_damage(self, tmp_path):
        """A part of another video, or of the same one, may begin there."""
        for variant in self.VARIANTS:
            for suffix in ("mp4", "mkv", "ts", "flv"):
                options = {"x264-params": variant}
                sound = write(tmp_path / f"a.{suffix}", "libx264", options=options)
                first, second, third = keyframes(sound)[1:4]
                for absent in (range(first + 1, third), range(second), range(first, second)):
                    path = edit_packets(sound, tmp_path / f"b.{suffix}", dropped(*absent))
                    message = outcome(path, threads=1)
                    assert "missing in the file" not in str(message), f"{variant} {suffix}"

    def test_absent_pictures_that_no_other_refers_to_are_no_damage(self, tmp_path):
        for suffix in ("mp4", "mkv", "ts", "flv"):
            options = {"x264-params": self.VARIANTS[1]}
            sound = write(tmp_path / f"a.{suffix}", "libx264", options=options)
            needed = {*reference_pictures(sound), *keyframes(sound)}
            others = [number for number in range(FRAMES - 4) if number not in needed]
            path = edit_packets(sound, tmp_path / f"b.{suffix}", dropped(*others))
            assert_sound(path, FRAMES - len(others), suffix)


class TestPictureNumbers:
    """Headers of H.264 that encoders here do not write."""

    @staticmethod
    def unit(header, *fields):
        """Return a unit: a number is ue(v), a text is bits."""
        bits = ""
        for value in fields:
            if isinstance(value, int):
                digits = f"{value + 1:b}"
                value = "0" * (len(digits) - 1) + digits
            bits += value
        bits += "1"
        bits += "0" * (-len(bits) % 8)
        payload = int(bits, 2).to_bytes(len(bits) // 8, "big")
        for last in range(4):
            payload = payload.replace(bytes([0, 0, last]), bytes([0, 0, 3, last]))
        return bytes([header]) + payload

    def numbers(self, *, profile=66, order=(2,), gaps="0", high=()):
        numbers = PictureNumbers()
        numbers.add_unit(
            self.unit(
                0x67, f"{profile:08b}", "0" * 16, 0, *high, 0, *order, 1, gaps, 19, 14, "1", "1000"
            )
        )
        # Picture 0 of sequence 0, one reference, weights of P pictures.
        numbers.add_unit(self.unit(0x68, 0, 0, "00", 0, 0, 0, "100", 0, 0, 0, "000"))
        return numbers

    def lost(self, numbers, *found, order=""):
        """Return how many are absent before each: the number, and the operations."""
        result = []
        for number in found:
            number, operations = number if isinstance(number, tuple) else (number, ())
            marking = ("1", *operations, 0) if operations else ("0",)
            weights = (0, 0, "1", 3, 4, "0")
            first = self.unit(
                0x41, 0, 5, 0, f"{number:04b}", order, "0", "0", *weights, *marking, 26, "0" * 200
            )
            result.append(numbers.absent(first, is_keyframe=False))
        return result

    def test_numbers_in_turn_and_with_gaps(self):
        assert self.lost(self.numbers(), 14, 15, 0, 1, 1, 4, 5, 2) == [0, 0, 0, 0, 0, 2, 0, 2]
        assert self.lost(self.numbers(gaps="1"), 1, 2, 6, 9) == [0] * 4

    def test_pictures_that_no_other_refers_to_do_not_advance_the_number(self):
        numbers = self.numbers()
        assert self.lost(numbers, 3) == [0]
        other = self.unit(0x01, 0, 5, 0, "0100", "0" * 40)
        assert numbers.absent(other, is_keyframe=False) == 0
        assert self.lost(numbers, 5) == [1]

    def test_operations_that_set_the_number_to_0(self):
        assert self.lost(self.numbers(), 7, 8, (9, (5,)), 1, 2) == [0] * 5
        assert self.lost(self.numbers(), 7, 8, (9, (1, 4)), 1, 2) == [0, 0, 0, 1, 0]
        assert self.lost(self.numbers(), 7, 8, (9, (3, 0, 5, 5)), 0) == [0, 0, 0, 0]
        for order, bits in (((0, 2), "010101"), ((1, "0", 0, 0, 1, 0), "1")):
            numbers = self.numbers(order=order)
            assert self.lost(numbers, 7, (8, (5,)), 1, 4, order=bits) == [0, 0, 0, 2]

    def test_scaling_lists(self):
        lists = ("0", "1", *[0] * 16, "1", 16, "0" * 6)  # all equal; the last 0 at once; none
        numbers = self.numbers(profile=100, high=(1, 0, 0, "0", "1", *lists[1:]))
        assert self.lost(numbers, 3, 4, 7) == [0, 0, 2]

    def test_what_cannot_be_read_shows_nothing(self):
        unknown = self.numbers(profile=118)
        layers = self.numbers()
        layers.add_unit(b"\x6e\x00\x00")
        bare = PictureNumbers()
        for numbers in (unknown, layers, bare):
            assert self.lost(numbers, 3, 9, 12) == [0, 0, 0]
        numbers = self.numbers()
        assert self.lost(numbers, 3) == [0]
        numbers.skip(is_empty=False)
        assert self.lost(numbers, 9, 12) == [0, 0]  # the picture before 9 is damaged

    def test_leading_pictures_may_be_absent_where_a_part_begins(self):
        numbers = self.numbers()
        self.lost(numbers, 3, 4)
        first = self.unit(0x41, 0, 7, 0, "1010", "0")
        assert numbers.absent(first, is_keyframe=True) == 0
        assert self.lost(numbers, 13, 14, 0) == [0, 0, 1]
        message = self.unit(0x06, "00000110", "00000001", "10000000")
        numbers.add_unit(message)
        assert self.lost(numbers, 9) == [0]


class TestStart:
    """A video that begins between keyframes begins at the first picture that can be decoded."""

    @pytest.mark.long
    def test_nothing_before_the_first_keyframe_is_shown(self, tmp_path):
        for codec, options, pix_fmt, suffixes in (
            *(case for case in VIDEOS if case[0] not in ("mjpeg", "png", "prores_ks", "ffv1")),
            ("ffv1", {"level": "3"}, "yuv420p", ("mkv", "nut")),
        ):
            for suffix in suffixes:
                case = f"{codec} {options} {suffix}"
                whole = write(tmp_path / f"w.{suffix}", codec, options=options, pix_fmt=pix_fmt)
                if codec in ("libx264", "libx265") and suffix == "mkv":
                    continue  # it cannot begin with a negative time stamp
                path = edit_packets(whole, tmp_path / f"a.{suffix}", dropped(0))
                accounts = Accounts()
                found = list(decode_source(path, accounts=accounts))
                assert {frame.stretch for frame in found} == {0}, case
                hidden = sum(packet.is_discard for packet in packets_of(path))
                assert len(found) + accounts.left_out == FRAMES - 1 - hidden, case
                assert 1 <= accounts.left_out <= 13, case
                assert found[0].index == 0, case
                assert found[0].time_s == 0.0, case
                expected = [content for content, _ in pixels(whole)][-len(found) :]
                assert [frame.pixels.tobytes() for frame in found] == expected, case

    def test_no_keyframe_at_all(self, tmp_path):
        for codec, suffix in (
            ("mpeg4", "avi"),
            ("flv", "flv"),
            ("libvpx", "webm"),
            ("h261", "avi"),
        ):
            whole = write(tmp_path / f"w.{suffix}", codec, options={"g": "300"})
            path = edit_packets(whole, tmp_path / f"a.{suffix}", dropped(0))
            message = outcome(path)
            assert str(message).startswith(
                "holds no frame that can be shown: 47 pictures, and no keyframe"
            ), f"{codec} {message}"

    def test_leading_pictures_of_an_open_group_are_left_out(self, tmp_path):
        for codec, options in (("libx264", X264_OPEN), ("libx265", X265_OPEN)):
            for suffix in ("ts", "mkv", "mp4"):
                whole = write(tmp_path / f"w.{suffix}", codec, options=options)
                second = keyframes(whole)[1]
                path = edit_packets(whole, tmp_path / f"a.{suffix}", dropped(*range(second)))
                accounts = Accounts()
                frames = sum(1 for _ in decode_source(path, accounts=accounts))
                # An edit list of MP4 hides one of the leading pictures.
                hidden = sum(packet.is_discard for packet in packets_of(path))
                assert frames + accounts.left_out == FRAMES - second - hidden, f"{codec} {suffix}"
                assert 0 <= accounts.left_out <= 4, f"{codec} {suffix}"
                assert not accounts.summary, f"{codec} {suffix}"

    def test_damaged_first_keyframe_is_damage(self, tmp_path):
        for codec, suffix, options in (
            ("libx264", "mp4", X264),
            ("libx264", "ts", X264),
            ("libvpx", "webm", {}),
            ("mpeg4", "avi", {}),
        ):
            whole = write(tmp_path / f"w.{suffix}", codec, options=options)
            start = 0.5 if suffix in ("ts", "avi") else 0.0
            path = edit_packets(whole, tmp_path / f"a.{suffix}", overwritten(0, start=start))
            for threads in (0, 1):
                assert str(outcome(path, threads=threads)).startswith("is damaged"), codec
            intact, _ = outcome(path, damage="skip")
            assert 24 <= intact <= 36, codec


class TestSkip:
    """With ``damage="skip"``, clips that touch damage are left out and all others are as before."""

    @pytest.fixture
    def videos(self, tmp_path):
        """A sound video of 60 frames, and one whose frames from 26 to 35 depend on damage."""
        sound = write_video(
            tmp_path / "sound.mp4",
            60,
            draw=moving_texture,
            width=176,
            height=144,
            options={**X264, "bf": "0"},
        )
        return sound, edit_packets(sound, tmp_path / "damaged.mp4", changed(26))

    def test_frames_between_damage_and_the_next_keyframe_are_marked(self, videos):
        _, damaged = videos
        frames = list(decode_frames(damaged, damage="skip"))
        assert [frame.index for frame in frames] == list(range(60))
        assert [frame.stretch for frame in frames] == [0] * 26 + [DAMAGED] * 10 + [1] * 24

    @pytest.mark.parametrize(
        ("window", "starts"),
        [
            ({}, [0, 8, 40]),
            ({"stride": 4}, [0, 4, 8, 36, 40, 44]),
            ({"frame_step": 2, "stride": 2}, []),
            ({"stride": 16, "tail": "pad"}, [0, 48]),
            ({"stride": 16, "tail": "loop"}, [0, 48]),
        ],
    )
    def test_clips_that_touch_damage_are_left_out(self, videos, window, starts):
        window = ClipWindow(damage="skip", **window)
        sound, damaged = (
            {clip.start_frame: clip for clip in iter_clips(frames, window)}
            for frames in (
                decode_frames(videos[0], damage="skip"),
                decode_frames(videos[1], damage="skip"),
            )
        )
        assert list(damaged) == (starts or [])
        assert len(sound) == window.count(60)
        for start, clip in damaged.items():
            assert np.array_equal(clip.pixels, sound[start].pixels), start
            assert (clip.start_s, clip.end_s) == (sound[start].start_s, sound[start].end_s), start

    def test_frames_are_not_joined_across_missing_pictures(self, tmp_path):
        """One picture of a codec without prediction is missing: no frame is marked, clips end."""
        for suffix in ("avi", "mov", "mkv"):
            whole = write(tmp_path / f"a.{suffix}", "mjpeg", pix_fmt="yuvj420p")
            path = edit_packets(whole, tmp_path / f"b.{suffix}", overwritten(20, start=0.0))
            frames = list(decode_frames(path, damage="skip"))
            assert [frame.stretch for frame in frames] == [0] * 20 + [1] * 27, suffix
            assert [frame.index for frame in frames] == list(range(47)), suffix
            # The picture before the gap is not shown in place of the missing one.
            assert frames[19].duration_s == pytest.approx(0.04), suffix
            assert frames[20].time_s == pytest.approx(21 * 0.04), suffix
            clips = list(iter_clips(frames, ClipWindow(stride=4)))
            assert [clip.start_frame for clip in clips] == [0, 4, 20, 24, 28], suffix

    def test_pictures_shown_before_damage_and_decoded_after_it_are_marked(self, tmp_path):
        """B-frames are shown before the picture that they are predicted from."""
        order = "bframes=3:b-adapt=0:b-pyramid=0"
        options = {"x264-params": f"keyint=24:min-keyint=24:scenecut=0:{order}"}
        for suffix in ("mp4", "mkv", "ts"):
            whole = write(tmp_path / f"a.{suffix}", "libx264", options={**options, "g": "24"})
            order = sorted(packets_of(whole), key=lambda packet: packet.pts)
            numbers = [packet.dts for packet in packets_of(whole)]
            shown = [numbers.index(packet.dts) for packet in order]
            # The third P-frame; three B-frames follow in the file and precede it on the screen.
            number = shown[12]
            path = edit_packets(whole, tmp_path / f"b.{suffix}", changed(number))
            self.assert_damaged(path, range(9, 24))
            # The last B-frame before it is lost, and precedes it on the screen alone.
            path = edit_packets(whole, tmp_path / f"c.{suffix}", overwritten(shown[11], start=0.0))
            self.assert_damaged(path, range(11, 24))

    def assert_damaged(self, path, damaged):
        """Check that of 48 frames these are marked, or missing where the decoder gave none."""
        stretches = {
            round(25 * frame.time_s): frame.stretch for frame in decode_frames(path, damage="skip")
        }
        before, after = range(damaged.start), range(damaged.stop, 48)
        expected = {**dict.fromkeys(before, 0), **dict.fromkeys(after, 1)}
        marks = {number: stretches.pop(number) for number in damaged if number in stretches}
        assert stretches == expected, path
        assert set(marks.values()) == {DAMAGED}, path

    def test_resampling_repeats_no_picture_across_a_hole(self):
        def frames():
            for index, (time_s, stretch) in enumerate(
                [(0.0, 0), (0.1, 0), (0.5, 1), (0.6, 1), (0.7, DAMAGED), (0.8, 2)]
            ):
                pixels = np.full((4, 4, 3), index, np.uint8)
                frame = Frame.from_pixels(index, time_s, 0.1, pixels)
                yield Frame(index, time_s, 0.1, frame.picture, stretch)

        resampled = [
            (frame.stretch, int(frame.pixels[0, 0, 0])) for frame in resample(frames(), fps=20)
        ]
        intact = [(stretch, picture) for stretch, picture in resampled if stretch != DAMAGED]
        assert intact == [(0, 0)] * 2 + [(0, 1)] * 2 + [(1, 2)] * 2 + [(1, 3)] * 2 + [(2, 5)] * 2
        assert [stretch for stretch, _ in resampled[4:10]] == [DAMAGED] * 6

    def test_sound_videos_have_the_same_clips_with_both_policies(self, videos):
        for window in ({}, {"fps": 10.0}, {"tail": "pad", "stride": 7}):
            both = [
                list(
                    iter_clips(
                        decode_frames(videos[0], damage=damage),
                        ClipWindow(damage=damage, **window),
                    )
                )
                for damage in ("error", "skip")
            ]
            assert len(both[0]) == len(both[1]) > 0
            for one, other in zip(*both, strict=True):
                assert (one.start_frame, one.start_s, one.end_s) == (
                    other.start_frame, other.start_s, other.end_s
                )  # fmt: skip
                assert np.array_equal(one.pixels, other.pixels)

    def test_video_that_ends_early_is_an_error_all_the_same(self, videos, tmp_path):
        content = videos[0].read_bytes()
        for name, whole, part in (
            ("a.avi", write(tmp_path / "w.avi", "mjpeg", pix_fmt="yuvj420p").read_bytes(), 0.7),
            ("a.mp4", content, 0.7),
        ):
            path = tmp_path / name
            path.write_bytes(whole[: int(len(whole) * part)])
            assert isinstance(outcome(path, damage="skip"), str), name

    def test_unknown_policy(self, videos):
        for call in (
            lambda: ClipWindow(damage="ignore"),
            lambda: decode_frames(videos[0], damage="ignore"),
        ):
            with pytest.raises(UsageError, match="damage is 'ignore'; give one of error, skip"):
                call()


class TestClient:
    """What is left out is in the provenance, in the run's rows, and on the terminal."""

    @pytest.fixture
    def folder(self, tmp_path):
        folder = tmp_path / "videos"
        folder.mkdir()
        draw = {"draw": moving_texture, "width": 176, "height": 144}
        whole = write_video(folder / "whole.mp4", 60, options={**X264, "bf": "0"}, **draw)
        edit_packets(whole, folder / "damaged.mp4", changed(26))
        edit_packets(whole, folder / "hopeless.mp4", changed(6, 18, 30, 42, 54))
        late = write_video(tmp_path / "late.avi", 60, codec="mpeg4", options={"g": "20"}, **draw)
        edit_packets(late, folder / "late.avi", dropped(0))
        return folder

    def rows(self, target, folder, out, **window):
        with C3DClient(target, window=ClipWindow(**window)) as c3d:
            rows = ExtractJob(c3d, out, retry_failed=True).run(list(expand([folder])), workers=2)
            return {row.source.name: row for row in rows}

    def test_rows_and_provenance(self, fake_serving, folder, tmp_path):
        target = fake_serving().target
        rows = self.rows(target, folder, tmp_path / "out", damage="skip")
        found = {name: (row.status, row.clips, row.clips_left_out) for name, row in rows.items()}
        assert found == {
            "whole.mp4": ("done", 6, 0),
            "damaged.mp4": ("done", 3, 3),
            "hopeless.mp4": ("failed", 0, 0),
            "late.avi": ("done", 4, 0),
        }
        assert rows["late.avi"].frames_left_out == 19
        assert rows["hopeless.mp4"].error.endswith(
            "hopeless.mp4: is damaged: 5 of 60 pictures could not be decoded; no clip is left of 6"
        )
        for name, left_out in (("whole.mp4", 0), ("damaged.mp4", 3)):
            features = read_features(rows[name].path)
            assert features.provenance["damage"] == "skip"
            assert features.provenance["video"]["clips_left_out"] == left_out
            assert "frames_left_out" not in features.provenance["video"]
        late = read_features(rows["late.avi"].path).provenance["video"]
        assert (late["frames"], late["frames_left_out"]) == (40, 19)

    def test_error_is_the_default_and_its_provenance_is_as_before(
        self, fake_serving, folder, tmp_path
    ):
        rows = self.rows(fake_serving().target, folder, tmp_path / "out")
        assert {name: row.status for name, row in rows.items()} == {
            "whole.mp4": "done",
            "damaged.mp4": "failed",
            "hopeless.mp4": "failed",
            "late.avi": "done",
        }
        provenance = read_features(rows["whole.mp4"].path).provenance
        assert "damage" not in provenance
        assert "clips_left_out" not in provenance["video"]
        skipped = self.rows(fake_serving().target, folder, tmp_path / "skip", damage="skip")
        other = read_features(skipped["whole.mp4"].path).provenance
        (difference,) = Provenance(provenance).differences(Provenance(other))
        assert (difference.field, difference.one, difference.other) == ("damage", "error", "skip")

    def test_commands_name_what_is_left_out(self, fake_serving, folder, tmp_path, run):
        target = fake_serving().target
        code, _, lines = run(
            "extract", folder, "--out", tmp_path / "out", "--server", target, "--damage", "skip"
        )
        assert code == 1
        assert "c3d: damaged.mp4: left out: 3 clips with damaged pictures" in lines
        assert "c3d: late.avi: left out: 19 pictures before the first keyframe" in lines
        assert not any(line.startswith("c3d: whole.mp4") for line in lines)
        code, out, lines = run(
            "classify", folder / "damaged.mp4", "--server", target, "--damage", "skip"
        )
        assert code == 0
        assert "3 clips" in out
        assert lines[-1].endswith("damaged.mp4: left out: 3 clips with damaged pictures")
