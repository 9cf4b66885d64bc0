"""Decoding: every frame, in order, with its time; and files that are not what they seem."""

import numpy as np
import pytest
from c3d_client.core.errors import VideoDecodeError
from c3d_client.video.decode import decode_frames
from support.films import noise, write_film, write_sound


@pytest.mark.parametrize(
    ("name", "frames", "size"),
    [("bikes", 250, (272, 640)), ("bunny", 132, (720, 1280)), ("carphone", 120, (144, 176))],
)
def test_h264_files_give_every_frame_in_order(request, name, frames, size):
    decoded = list(decode_frames(request.getfixturevalue(name)))
    assert [frame.index for frame in decoded] == list(range(frames))
    assert {frame.pixels.shape for frame in decoded} == {(*size, 3)}
    assert {frame.pixels.dtype for frame in decoded} == {np.dtype(np.uint8)}
    times = [frame.time_s for frame in decoded]
    assert times == sorted(set(times))
    assert times[0] == pytest.approx(0.0, abs=1e-6)


def test_packed_b_frames_of_ucf101_give_every_frame(baseball):
    decoded = list(decode_frames(baseball))
    assert len(decoded) == 107
    steps = np.diff([frame.time_s for frame in decoded])
    assert steps == pytest.approx(np.full(106, 1001 / 30000), abs=1e-3)


def test_a_source_may_be_a_path_object_or_a_string(carphone):
    first = next(iter(decode_frames(carphone)))
    again = next(iter(decode_frames(str(carphone))))
    assert np.array_equal(first.pixels, again.pixels)


def test_pixels_are_rgb(tmp_path):
    def red(_number):
        return np.full((240, 320, 3), (200, 20, 20), np.uint8)

    frame = next(iter(decode_frames(write_film(tmp_path / "red.mp4", 2, draw=red))))
    assert frame.pixels[100, 100] == pytest.approx((200, 20, 20), abs=12)


def test_decoding_can_be_left_halfway(bunny):
    frames = decode_frames(bunny)
    next(frames)
    frames.close()


class TestWhatIsNotAVideo:
    def fails(self, path, words):
        with pytest.raises(VideoDecodeError, match=words) as caught:
            list(decode_frames(path))
        assert caught.value.source == str(path)
        assert "\n" not in str(caught.value)

    def test_a_missing_file(self, tmp_path):
        self.fails(tmp_path / "absent.mp4", "no such file")

    def test_a_folder(self, tmp_path):
        self.fails(tmp_path, "is a folder")

    def test_an_empty_file(self, tmp_path):
        path = tmp_path / "empty.mp4"
        path.touch()
        self.fails(path, "is empty")

    @pytest.mark.parametrize("name", ["notes.txt", "notes.mp4", "notes"])
    def test_text_whatever_its_name(self, tmp_path, name):
        path = tmp_path / name
        path.write_text("no pictures here\n" * 2000)
        self.fails(path, "cannot be opened as a video|is text, not a video")

    def test_noise(self, tmp_path):
        path = tmp_path / "noise.mp4"
        path.write_bytes(np.random.default_rng(0).bytes(50_000))
        self.fails(path, "cannot be opened as a video")

    def test_sound_alone(self, tmp_path):
        self.fails(write_sound(tmp_path / "song.m4a"), r"has no video stream \(it holds: audio aac")

    @pytest.mark.parametrize(
        ("name", "codec", "options"),
        [
            ("tail.mp4", "libx264", {}),  # its index is at the end, and lost
            ("head.mp4", "libx264", {"movflags": "faststart"}),
            ("fragments.mp4", "libx264", {"movflags": "frag_keyframe+empty_moov"}),
            ("film.avi", "mpeg4", {}),
            ("film.mkv", "libx264", {}),
            ("film.webm", "libvpx-vp9", {}),
        ],
    )
    def test_a_film_cut_short(self, tmp_path, name, codec, options):
        whole = write_film(tmp_path / name, 60, codec=codec, draw=noise, container_options=options)
        assert len(list(decode_frames(whole))) == 60
        content = whole.read_bytes()
        cut = tmp_path / f"cut-{name}"
        cut.write_bytes(content[: int(len(content) * 0.6)])
        self.fails(cut, "is cut short|cannot be opened as a video")

    def test_a_real_film_cut_short(self, baseball, tmp_path):
        cut = tmp_path / "cut.avi"
        cut.write_bytes(baseball.read_bytes()[:200_000])
        self.fails(cut, "is cut short")
