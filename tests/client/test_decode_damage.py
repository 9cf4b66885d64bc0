"""decode_frames with damaged and hostile files, open files, and the files that it leaves open."""

import contextlib
import http.server
import io
import os
import threading
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from c3d_client.core.errors import VideoDecodeError, VideoUnreadableError
from c3d_client.video.decode import decode_frames
from support.videos import noise, write_sound, write_timed, write_video

REGULAR = [40 * number for number in range(60)]


def decode_bytes(content):
    """Decode a video and return the number of its frames, or the reason of its error."""
    try:
        # With more threads libavcodec loses some marks of damage in a race.
        return sum(1 for _ in decode_frames(io.BytesIO(content), threads=1))
    except VideoDecodeError as error:
        return error.reason


def damaged_copies(content, *, count, size=64):
    """Yield copies of a file, each with some bytes in its middle nine tenths overwritten."""
    random = np.random.default_rng(0)
    for offset in random.integers(len(content) // 20, len(content) * 19 // 20, count):
        copy = bytearray(content)
        copy[offset : offset + size] = random.bytes(size)
        yield bytes(copy)


def test_damage_that_the_decoder_conceals_is_an_error(baseball):
    for copy in damaged_copies(baseball.read_bytes(), count=24):
        assert str(decode_bytes(copy)).startswith("is damaged: decoding stopped after")


@pytest.mark.parametrize(
    ("name", "options", "fewest"),
    [
        # Of 16: the decoder misses some damage in H.264, and most in newer codecs.
        ("a.mp4", {}, 6),
        ("a.mpg", {"codec": "mpeg2video"}, 14),
        ("a.ts", {}, 6),
    ],
)
def test_most_damage_is_an_error(tmp_path, name, options, fewest):
    whole = write_video(tmp_path / name, 40, draw=noise, **options).read_bytes()
    assert decode_bytes(whole) == 40
    results = [decode_bytes(copy) for copy in damaged_copies(whole, count=16)]
    assert sum(isinstance(result, str) for result in results) >= fewest


def test_error_names_the_frame_and_the_time(baseball):
    content = bytearray(baseball.read_bytes())
    content[200_000:200_064] = bytes(64)
    with pytest.raises(VideoDecodeError, match=r"after (\d+) frames, at (\d\.\d\d) s \(frame \1"):
        list(decode_frames(io.BytesIO(content)))


def test_incomplete_last_frame_is_an_error(tmp_path):
    path = write_timed(
        tmp_path / "a.avi", range(20), time_base=Fraction(1, 25), codec="mjpeg", pix_fmt="yuvj420p"
    )
    content = path.read_bytes()
    assert decode_bytes(content) == 20
    cut = bytearray(content[: content.rindex(b"idx1") - 40])
    assert str(decode_bytes(cut)).startswith("is cut short: it says 20 frames in")
    # Without sizes, as a recorder leaves them that was interrupted.
    cut[4:8] = cut[cut.index(b"movi") - 4 : cut.index(b"movi")] = b"\xff" * 4
    assert "its last packet is incomplete" in str(decode_bytes(cut))


def test_lost_packets_are_an_error(tmp_path):
    whole = write_timed(tmp_path / "a.ts", REGULAR).read_bytes()
    middle = len(whole) // 188 // 2 * 188
    assert str(decode_bytes(whole[:middle] + whole[middle + 188 * 10 :])).startswith("is damaged")


@pytest.mark.long
@pytest.mark.parametrize(
    ("codec", "params"),
    [
        ("libx264", {"x264-params": "open-gop=1:keyint=12"}),
        ("libx265", {"x265-params": "open-gop=1:keyint=12:log-level=none"}),
    ],
)
@pytest.mark.parametrize("packets", [60, 120, 200])
def test_video_may_begin_between_key_frames(tmp_path, codec, params, packets):
    path = write_timed(tmp_path / "a.ts", REGULAR, codec=codec, options=params)
    assert 10 < decode_bytes(path.read_bytes()[188 * packets :]) < 60


class TestNoOtherFileIsOpened:
    @pytest.fixture
    def video(self, tmp_path):
        return write_video(tmp_path / "video.ts", 20)

    @pytest.fixture
    def requests(self, tmp_path):
        """The address of a web server, followed by the paths that were requested from it."""

        class Handler(http.server.SimpleHTTPRequestHandler):
            def __init__(self, *args):
                super().__init__(*args, directory=str(tmp_path))

            def log_message(self, *args):
                paths.append(self.path)

        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            paths = [f"http://127.0.0.1:{server.server_port}"]
            thread = threading.Thread(target=server.serve_forever, args=(0.01,))
            thread.start()
            yield paths
            server.shutdown()
            thread.join()

    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("a.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{}\n#EXT-X-ENDLIST\n"),
            ("a.mp4", "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{}\n#EXT-X-ENDLIST\n"),
            ("a.ffconcat", "ffconcat version 1.0\nfile '{}'\n"),
            ("a.avi", "ffconcat version 1.0\nfile '{}'\n"),
            ("a.mpd", '<?xml version="1.0"?><MPD><BaseURL>{}</BaseURL></MPD>'),
            ("a.sdp", "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video 9 RTP/AVP 96\n"),
        ],
    )
    def test_playlist_is_not_followed(self, video, requests, tmp_path, name, text):
        for address in (video.name, str(video), f"file://{video}", f"{requests[0]}/video.ts"):
            path = tmp_path / name
            path.write_text(text.format(address))
            with pytest.raises(VideoDecodeError, match="cannot be opened as a video"):
                list(decode_frames(path))
        assert len(requests) == 1

    def test_percent_sign_in_a_name_is_not_a_pattern(self, tmp_path):
        write_timed(tmp_path / "shot1.png", [0], codec="png", pix_fmt="rgb24")
        with pytest.raises(VideoUnreadableError, match="no such file"):
            list(decode_frames(tmp_path / "shot%d.png"))

    def test_pipe_and_device_are_errors(self, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        for path in (tmp_path / "pipe", "/dev/zero"):
            with pytest.raises(VideoUnreadableError, match="is a pipe or a device"):
                list(decode_frames(path))


class TestNoVideoStream:
    def fails(self, path, message):
        with pytest.raises(VideoDecodeError, match=message) as caught:
            list(decode_frames(path))
        assert caught.type is VideoDecodeError

    @pytest.mark.parametrize("suffix", ["", ".mp4", ".bin", ".avi", ".h264", ".yuv"])
    def test_random_bytes(self, tmp_path, suffix):
        for seed in range(5):
            path = tmp_path / f"{seed}{suffix}"
            path.write_bytes(np.random.default_rng(seed).bytes(20_000))
            self.fails(path, str(path))

    def test_cover_of_an_audio_file(self, tmp_path):
        audio, path = write_sound(tmp_path / "song.m4a"), tmp_path / "cover.mp4"
        with av.open(str(audio)) as source, av.open(str(path), "w") as target:
            sound = target.add_stream_from_template(source.streams.audio[0])
            cover = target.add_stream("mjpeg", rate=1)
            cover.width, cover.height, cover.pix_fmt = 176, 144, "yuvj420p"
            cover.disposition = av.stream.Disposition.attached_pic
            picture = av.VideoFrame.from_ndarray(noise(0, width=176, height=144), format="rgb24")
            target.mux([*cover.encode(picture), *cover.encode()])
            for packet in source.demux():
                if packet.size:
                    packet.stream = sound
                    target.mux(packet)
        self.fails(path, r"has no video stream \(it holds: audio aac, video mjpeg\)")

    def test_subtitles(self, tmp_path):
        path = tmp_path / "video.srt"
        path.write_text("1\n00:00:01,000 --> 00:00:02,000\nHello\n")
        self.fails(path, "is text, not a video")

    def test_unknown_codec(self, tmp_path):
        path = write_video(tmp_path / "a.mp4", 5)
        path.write_bytes(path.read_bytes().replace(b"avc1", b"qx7z"))
        self.fails(path, "in a codec that FFmpeg does not know")


def test_title_in_another_encoding_is_no_error(tmp_path):
    path = tmp_path / "a.avi"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "a long caf_ title"
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(noise(0), format="rgb24")))
        container.mux(stream.encode())
    content = path.read_bytes()
    assert b"caf_" in content
    assert decode_bytes(content.replace(b"caf_", b"caf\xe9")) == 1


class TestOpenFiles:
    def test_open_file_stays_open(self, carphone):
        with open(carphone, "rb") as file:
            assert sum(1 for _ in decode_frames(file)) == 120
            assert not file.closed

    def test_errors_name_the_file(self, tmp_path):
        path = tmp_path / "notes.mp4"
        path.write_text("not a video\n" * 100)
        with open(path, "rb") as file, pytest.raises(VideoDecodeError) as caught:
            list(decode_frames(file))
        assert caught.value.source == str(path)

    def test_read_error_is_an_error(self, carphone):
        class Failing(io.BytesIO):
            def read(self, size=-1):
                if self.tell() > 100_000:
                    raise OSError("connection lost")
                return super().read(size)

        with pytest.raises(VideoUnreadableError, match="connection lost"):
            list(decode_frames(Failing(carphone.read_bytes())))


def descriptors_of(folder):
    """The descriptors of this process that show a file under a folder, or the folder itself.

    Only those of the test: what earlier tests left open may be closed at any moment.
    """
    shown = []
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # of listdir itself, or closed meanwhile
            target = Path(os.readlink(f"/proc/self/fd/{number}"))
            if target == folder or folder in target.parents:
                shown.append(number)
    return shown


def test_video_is_closed_when_decoding_ends_early(bikes, tmp_path):
    video = tmp_path / "bikes.mp4"
    video.write_bytes(bikes.read_bytes())
    for _ in range(20):
        frames = decode_frames(video)
        first = next(frames)
        assert len(descriptors_of(tmp_path)) == 1
        frames.close()
        assert not descriptors_of(tmp_path)
    assert first.pixels.shape == (272, 640, 3)  # the yielded frame is still valid


def test_failed_video_is_closed(baseball, tmp_path):
    cut = tmp_path / "cut.avi"
    cut.write_bytes(baseball.read_bytes()[:200_000])
    for path in (cut, tmp_path, tmp_path / "absent"):
        with pytest.raises(VideoDecodeError):
            list(decode_frames(path))
    assert not descriptors_of(tmp_path)
