"""Which of several video streams is decoded: by rule, or by its index."""

import io
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
from av.stream import Disposition
from c3d_client import C3DClient, ClipWindow
from c3d_client.core.errors import (
    ProvenanceError,
    UsageError,
    VideoDecodeError,
    VideoUnreadableError,
)
from c3d_client.job import ExtractJob, read_failures
from c3d_client.outputs import read_provenance
from c3d_client.video import streams
from c3d_client.video.decode import decode_frames
from c3d_client.video.sources import Source
from support.videos import add_video, noise, write_sound

STILL = {"codec": "mjpeg", "frames": 1, "size": (320, 240), "pix_fmt": "yuvj420p"}
SMALL = {"codec": "mpeg4", "frames": 30, "size": (64, 48)}
MOVING = {"codec": "mpeg4", "frames": 30, "size": (176, 144)}
SILENT = {"codec": "mpeg4", "frames": 0, "size": (352, 288)}


def write_streams(path, *specs, container=None, interleaved=True):
    """Write a file with several video streams; each is a mapping as above.

    ``disposition`` of a stream sets its flags; ``audio`` is a stream of silence, and bytes are the
    PNG of a Matroska attachment.
    """
    with av.open(str(path), "w", format=container) as output:
        packets = []
        for spec in specs:
            if isinstance(spec, bytes):
                output.add_attachment("cover.png", "image/png", spec)
                continue
            if spec == "audio":
                stream = output.add_stream("mp2", rate=48000, layout="mono")
                for start in range(0, 48000, 1152):
                    frame = av.AudioFrame.from_ndarray(np.zeros((1, 1152), np.int16), "s16", "mono")
                    frame.sample_rate, frame.pts, frame.time_base = 48000, start, Fraction(1, 48000)
                    packets += stream.encode(frame)
            else:
                stream = add_video(output, spec["codec"], options=spec.get("options"))
                stream.width, stream.height = spec["size"]
                stream.pix_fmt = spec.get("pix_fmt", "yuv420p")
                if "disposition" in spec:
                    stream.disposition = spec["disposition"]
                for number in range(spec["frames"]):
                    pixels = noise(number, width=stream.width, height=stream.height)
                    packets += stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24"))
            packets += stream.encode()
        if interleaved:
            packets.sort(key=lambda packet: packet.dts * packet.time_base)
        for packet in packets:
            output.mux(packet)
    return path


def chosen(path, **options):
    """Return the number and the size of the frames that are decoded."""
    frames = [frame.picture for frame in decode_frames(path, **options)]
    return len(frames), (frames[0].width, frames[0].height)


class TestChoice:
    @pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv", "a.avi", "a.nut"])
    def test_still_is_not_chosen_before_a_stream_that_moves(self, tmp_path, name):
        assert chosen(write_streams(tmp_path / name, STILL, MOVING)) == (30, (176, 144))
        assert chosen(write_streams(tmp_path / name, MOVING, STILL)) == (30, (176, 144))

    @pytest.mark.parametrize("name", ["a.ts", "a.avi", "a.nut", "a.mkv"])
    def test_silent_stream_is_not_chosen(self, tmp_path, name):
        path = write_streams(tmp_path / name, SILENT, SMALL)
        assert chosen(path) == (30, (64, 48))

    def test_programme_whose_packets_are_missing_is_not_chosen(self, tmp_path):
        codec = {"codec": "mpeg2video"}
        path = write_streams(tmp_path / "a.ts", {**MOVING, **codec}, {**SMALL, **codec})
        data = path.read_bytes()
        packets = [data[start : start + 188] for start in range(0, len(data), 188)]
        path.write_bytes(
            b"".join(p for p in packets if int.from_bytes(p[1:3], "big") & 0x1FFF != 0x100)
        )
        assert chosen(path) == (30, (64, 48))

    @pytest.mark.parametrize("name", ["a.mkv", "a.nut", "a.mp4", "a.mov"])
    def test_default_flag_decides_before_the_size(self, tmp_path, name):
        flagged = {**SMALL, "disposition": Disposition.default}
        other = {**MOVING, "disposition": Disposition.dub}
        assert chosen(write_streams(tmp_path / name, other, flagged)) == (30, (64, 48))
        assert chosen(write_streams(tmp_path / name, flagged, other)) == (30, (64, 48))

    @pytest.mark.parametrize("name", ["a.mkv", "a.nut", "a.mp4"])
    def test_default_still_is_not_chosen_before_a_stream_that_moves(self, tmp_path, name):
        still = {**STILL, "disposition": Disposition.default}
        moving = {**SMALL, "disposition": Disposition.dub}
        assert chosen(write_streams(tmp_path / name, still, moving)) == (30, (64, 48))

    @pytest.mark.parametrize("name", ["a.ts", "a.avi", "a.wmv", "a.mkv"])
    def test_larger_pictures_decide_between_equal_streams(self, tmp_path, name):
        # Among equals in size the first is decoded.
        assert chosen(write_streams(tmp_path / name, SMALL, MOVING, SMALL)) == (30, (176, 144))
        longer = {**SMALL, "frames": 40}
        assert chosen(write_streams(tmp_path / name, SMALL, longer))[0] == 30

    @pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv"])
    def test_cover_is_never_chosen(self, tmp_path, name):
        cover = {**STILL, "size": (640, 480), "disposition": Disposition.attached_pic}
        if name == "a.mkv":
            cover = cv2.imencode(".png", noise(0))[1].tobytes()
        assert chosen(write_streams(tmp_path / name, SMALL, cover)) == (30, (64, 48))
        single = {**SMALL, "frames": 1}
        assert chosen(write_streams(tmp_path / name, single, cover)) == (1, (64, 48))

    @pytest.mark.parametrize(
        ("name", "mark"), [("a.mp4", b"avc1"), ("a.avi", b"H264"), ("a.mkv", b"V_MPEG4/ISO/AVC")]
    )
    def test_unknown_codec_is_not_chosen_before_a_known_one(self, tmp_path, name, mark):
        path = write_streams(tmp_path / name, {**MOVING, "codec": "libx264"}, SMALL)
        data = path.read_bytes()
        assert mark in data
        path.write_bytes(data.replace(mark, b"qx7z".ljust(len(mark), b"_")))
        assert chosen(path) == (30, (64, 48))

    @pytest.mark.parametrize("name", ["a.ts", "a.mkv"])
    def test_packets_after_the_first_10_mb_do_not_count(self, tmp_path, name, monkeypatch):
        early = {**SMALL, "codec": "mpeg2video"}
        late = {**MOVING, "codec": "mpeg2video"}
        path = write_streams(tmp_path / name, early, late, interleaved=False)
        assert chosen(path)[1] == (176, 144)
        monkeypatch.setattr(streams, "_AHEAD_BYTES", 5000)
        assert chosen(path)[1] == (64, 48)


class _Counted(io.BytesIO):
    """A file that counts the bytes that are read from it."""

    amount = 0

    def read(self, size=-1):
        data = super().read(size)
        self.amount += len(data)
        return data


class _Unseekable(io.RawIOBase):
    """A file that can only be read on, as a pipe."""

    def __init__(self, data):
        self._file = io.BytesIO(data)

    def read(self, size=-1):
        return self._file.read(size)

    def readable(self):
        return True

    def seekable(self):
        return False


class TestPacketsThatWereReadAhead:
    @pytest.mark.parametrize("name", ["a.ts", "a.mkv", "a.avi", "a.nut"])
    def test_they_are_decoded_and_read_once(self, tmp_path, name):
        path = write_streams(tmp_path / name, {**SILENT, "frames": 1}, MOVING)
        index = 1
        by_rule, by_index = (_Counted(path.read_bytes()) for _ in range(2))
        one = [frame.pixels for frame in decode_frames(by_rule)]
        two = [frame.pixels for frame in decode_frames(by_index, stream=index)]
        assert len(one) == 30
        assert np.array_equal(one, two)
        assert by_rule.amount == by_index.amount

    @pytest.mark.parametrize("name", ["a.ts", "a.mkv", "a.nut"])
    def test_input_need_not_be_seekable(self, tmp_path, name):
        path = write_streams(tmp_path / name, {**SILENT, "frames": 1}, MOVING)
        assert chosen(_Unseekable(path.read_bytes())) == (30, (176, 144))

    def test_read_error_is_an_error_of_the_video(self, tmp_path):
        path = write_streams(tmp_path / "a.mkv", {**SILENT, "frames": 1}, {**MOVING, "frames": 300})

        class Failing(_Counted):
            def read(self, size=-1):
                if self.amount > 300_000:
                    raise OSError("connection lost")
                return super().read(size)

        with pytest.raises(VideoUnreadableError, match="connection lost"):
            list(decode_frames(Failing(path.read_bytes())))

    def test_single_stream_is_not_read_ahead(self, tmp_path, monkeypatch):
        path = write_streams(tmp_path / "a.mkv", MOVING, "audio")
        monkeypatch.setattr(streams.PacketReader, "read_ahead", None)
        assert chosen(path) == (30, (176, 144))


class TestIndex:
    @pytest.mark.parametrize("name", ["a.mkv", "a.ts", "a.avi", "a.mp4"])
    def test_it_counts_all_streams_of_the_file(self, tmp_path, name):
        path = write_streams(tmp_path / name, MOVING, "audio", SMALL)
        assert chosen(path, stream=0) == (30, (176, 144))
        assert chosen(path, stream=2) == (30, (64, 48))

    def test_still_and_cover_can_be_asked_for(self, tmp_path):
        assert chosen(write_streams(tmp_path / "a.mp4", STILL, MOVING), stream=0) == (1, (320, 240))
        cover = {**STILL, "disposition": Disposition.attached_pic}
        assert chosen(write_streams(tmp_path / "b.mp4", MOVING, cover), stream=1) == (1, (320, 240))

    @pytest.mark.parametrize(
        ("index", "problem"),
        [
            (3, "has no stream 3"),
            (-1, "has no stream -1"),
            (1, "its stream 1 is of type audio"),
        ],
    )
    def test_wrong_index_is_one_line_that_lists_the_video_streams(self, tmp_path, index, problem):
        cover = {**STILL, "disposition": Disposition.attached_pic}
        path = write_streams(tmp_path / "a.mp4", MOVING, "audio", cover)
        with pytest.raises(VideoDecodeError) as caught:
            list(decode_frames(path, stream=index))
        assert str(caught.value) == (
            f"{path}: {problem}; its video streams are: 0 (mpeg4 176x144), 2 (mjpeg 320x240, cover)"
        )

    def test_file_without_video_is_an_error(self, tmp_path):
        path = write_sound(tmp_path / "a.m4a")
        with pytest.raises(VideoDecodeError, match="of type audio; its video streams are: none"):
            list(decode_frames(path, stream=0))

    def test_unknown_codec_is_named(self, tmp_path):
        path = write_streams(tmp_path / "a.mp4", {**MOVING, "codec": "libx264"}, SMALL)
        path.write_bytes(path.read_bytes().replace(b"avc1", b"qx7z"))
        with pytest.raises(VideoDecodeError, match=r"not know; .* are: 0 \(unknown codec\), 1"):
            list(decode_frames(path, stream=0))

    @pytest.mark.parametrize("index", [-1, 1.0, "0"])
    def test_window_takes_an_index_only(self, index):
        with pytest.raises(UsageError, match="stream is .*; give the index of a stream"):
            ClipWindow(stream=index)


class TestRecord:
    @pytest.fixture
    def two(self, tmp_path):
        return write_streams(tmp_path / "two.mkv", SMALL, MOVING)

    @staticmethod
    def run_job(server, path, out, stream=None, **options):
        with C3DClient(server.target, window=ClipWindow(stream=stream)) as c3d:
            (row,) = ExtractJob(c3d, out, **options).run([Source(str(path), "two.mkv")])
        return row

    def test_choice_is_in_the_provenance_and_not_compared(self, narrow_server, two, tmp_path):
        with C3DClient(narrow_server.target) as c3d:
            by_rule = c3d.extract(two)
            assert by_rule.provenance["video"]["stream"] == 1
            assert by_rule.provenance["video"]["width"] == 176
        with C3DClient(narrow_server.target, window=ClipWindow(stream=0)) as c3d:
            by_index = c3d.extract(two)
        assert by_index.provenance["video"]["stream"] == 0
        assert by_index.provenance["clips"] == by_rule.provenance["clips"]
        assert not np.array_equal(by_index.clip_features, by_rule.clip_features)

    def test_output_of_another_stream_is_not_taken_as_done(self, narrow_server, two, tmp_path):
        out = tmp_path / "out"
        assert self.run_job(narrow_server, two, out).status == "done"
        assert self.run_job(narrow_server, two, out, stream=1).status == "skipped"
        with pytest.raises(ProvenanceError, match="1 of 1 done file was made with stream 1, not 0"):
            self.run_job(narrow_server, two, out, stream=0)
        row = self.run_job(narrow_server, two, out, stream=0, overwrite=True)
        assert row.status == "done"
        assert read_provenance(row.path, format="npz")["video"]["stream"] == 0
        # Without an index, whatever is there is accepted.
        assert self.run_job(narrow_server, two, out).status == "skipped"

    def test_failure_of_one_stream_is_not_one_of_the_others(self, narrow_server, two, tmp_path):
        out = tmp_path / "out"
        assert "has no stream 7" in self.run_job(narrow_server, two, out, stream=7).error
        assert read_failures(out)["two.mkv"].fingerprint == ""
        assert self.run_job(narrow_server, two, out).status == "done"

    @pytest.mark.parametrize("command", ["extract", "classify"])
    def test_commands_take_an_index(self, narrow_server, run, two, tmp_path, command):
        out = ("--out", tmp_path / "out") if command == "extract" else ()
        arguments = (command, two, *out, "--server", narrow_server.target, "--stream")
        assert run(*arguments, 0)[0] == 0
        code, _, errors = run(*arguments, 2, *(("--overwrite",) if out else ()))
        assert code != 0
        assert any(
            "has no stream 2; its video streams are: 0 (mpeg4 64x48), 1 (mpeg4 176x144)" in line
            for line in errors
        )
