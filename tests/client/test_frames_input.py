"""Videos given as frames, images, bytes or open files: the same numbers, a line for each fault."""

import csv
import gc
import io
import json
import os
import subprocess
import sys
import threading
import time
import weakref
from fractions import Fraction
from pathlib import Path

import cv2
import grpc
import numpy as np
import pytest
from c3d_client import (
    C3DClient,
    ClipWindow,
    Frame,
    OutputError,
    ServingError,
    ServingOptions,
    UsageError,
    VideoDecodeError,
    VideoTooShortError,
    VideoUnreadableError,
    convert,
    decode_frames,
    expand,
    partial,
    prepare_frame,
    read_features,
    require_same,
    write_features,
    write_page,
)
from c3d_client.job import ExtractJob
from c3d_client.outputs import FORMATS
from c3d_client.video.frames import read_image
from c3d_client.video.images import IMAGE_SUFFIXES, find_images
from c3d_client.video.sources import Scan
from c3d_client.views import tables
from PIL import Image
from support.errors import error_of
from support.videos import moving_texture, write_video

COUNT = 40


def pixels(count=COUNT):
    return np.stack([moving_texture(number) for number in range(count)])


def write_images(folder, frames, *, suffix=".png", name="{:06d}", first=1):
    folder.mkdir(parents=True, exist_ok=True)
    for number, frame in enumerate(frames, first):
        path = folder / (name.format(number) + suffix)
        assert cv2.imwrite(str(path), cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    return folder


class Tensor:
    """An array with the part of a torch tensor on a GPU that the client may use."""

    def __init__(self, array, on_gpu=True):
        self.array, self.on_gpu = array, on_gpu
        self.shape, self.dtype = array.shape, f"torch.{array.dtype}"

    def __getitem__(self, index):
        return Tensor(self.array[index], self.on_gpu)

    def __iter__(self):
        return (self[index] for index in range(len(self.array)))

    def detach(self):
        return self

    def cpu(self):
        return Tensor(self.array, on_gpu=False)

    def __array__(self, dtype=None, copy=None):
        if self.on_gpu:  # as torch does
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        return self.array


class Pipe(io.RawIOBase):
    """A file that cannot seek, and reads a few bytes at a time."""

    def __init__(self, content):
        self.content = io.BytesIO(content)

    def readable(self):
        return True

    def readinto(self, buffer):
        return self.content.readinto(memoryview(buffer)[: min(len(buffer), 1000)])


@pytest.fixture(scope="module")
def frames():
    return pixels()


@pytest.fixture(scope="module")
def images(frames, tmp_path_factory):
    """A folder of PNG images, whose pixels are those of the frames."""
    return write_images(tmp_path_factory.mktemp("frames") / "v1", frames)


@pytest.fixture(scope="module")
def c3d(narrow_server):
    with C3DClient(narrow_server.target) as client:
        yield client


@pytest.fixture(scope="module")
def expected(narrow_server, frames):
    """fc6 of the graph itself, of clips that OpenCV alone made."""
    prepared = np.stack([prepare_frame(frame) for frame in frames])
    clips = [prepared[start : start + 16] for start in range(0, COUNT - 15, 8)]
    run = narrow_server.servable.run
    return np.concatenate(
        [run("fc6_features", {"clips": clip[None]})["features"] for clip in clips]
    )


@pytest.fixture
def fake(fake_serving):
    with C3DClient(fake_serving().target) as client:
        yield client


def message_of(function, error=UsageError):
    message = str(error_of(error, function))
    assert "\n" not in message
    assert len(message) < 300, message
    return message


class TestNumbers:
    @pytest.mark.long
    def test_every_form_gives_the_features_of_the_graph(
        self, c3d, frames, images, expected, tmp_path
    ):
        bgr = np.ascontiguousarray(frames[..., ::-1])
        forms = {
            "array": (frames, {}),
            "BGR array": (bgr, {"channel_order": "bgr"}),
            "array of other strides": (np.asfortranarray(frames), {}),
            "read-only array": (
                np.frombuffer(frames.tobytes(), np.uint8).reshape(frames.shape),
                {},
            ),
            "tensor on a GPU": (Tensor(frames), {}),
            "list": (list(frames), {}),
            "list of tensors": ([Tensor(frame) for frame in frames], {}),
            "generator": ((frame for frame in frames), {}),
            "BGR generator": ((frame for frame in bgr), {"channel_order": "bgr"}),
            "PIL images": ((Image.fromarray(frame) for frame in frames), {}),
            "folder": (images, {}),
            "folder as text": (f"{images}/", {}),
            "file URL": (f"file://{images}", {}),
            "pattern of printf": (images / "%06d.png", {}),
            "pattern of a shell": (str(images / "*.png"), {}),
        }
        results = {name: c3d.extract(form, **options) for name, (form, options) in forms.items()}
        for name, result in results.items():
            assert result.clip_features == pytest.approx(expected, rel=1e-5, abs=1e-5), name
            assert np.array_equal(result.clip_features, results["array"].clip_features), name
            assert result.clip_starts.tolist() == [0, 8, 16, 24], name
        assert expected.std(axis=0).max() > 0.01

    @pytest.mark.long
    def test_torch_tensors_and_datasets_of_hdf5_are_arrays(self, fake, frames, tmp_path):
        h5py = pytest.importorskip("h5py")
        with h5py.File(tmp_path / "frames.h5", "w") as file:
            dataset = file.create_dataset("frames", data=frames)
            of_dataset = fake.extract(dataset)
        assert of_dataset.provenance == fake.extract(frames).provenance
        torch = pytest.importorskip("torch", reason="torch is an optional extra: make torch")
        tensor = torch.from_numpy(frames)
        first = tensor.permute(0, 3, 1, 2)
        assert fake.extract(tensor).provenance == of_dataset.provenance
        assert fake.extract(list(tensor)).clip_features.shape == (4, 4096)
        message = message_of(lambda: fake.extract(first))
        assert "x.permute(0, 2, 3, 1)" in message
        assert fake.extract(first.permute(0, 2, 3, 1)).provenance == of_dataset.provenance
        assert "float32" in message_of(lambda: fake.extract(tensor.float()))

    def test_jpegs_give_the_numbers_of_the_arrays_that_opencv_and_pillow_read(
        self, c3d, frames, tmp_path
    ):
        folder = write_images(tmp_path / "v", frames, suffix=".jpg", name="img_{:05d}")
        paths = sorted(folder.iterdir())
        of_folder = c3d.extract(folder)
        bgr = np.stack([cv2.imread(str(path)) for path in paths])
        rgb = np.stack([np.asarray(Image.open(path)) for path in paths])
        assert not np.array_equal(rgb, frames)  # JPEG changed them
        for form, order in ((bgr, "bgr"), (rgb, "rgb")):
            of_array = c3d.extract(form, channel_order=order)
            assert np.array_equal(of_array.clip_features, of_folder.clip_features), order

    @pytest.mark.long
    def test_content_of_a_video_gives_the_features_of_its_file(self, c3d, carphone, tmp_path):
        of_path = c3d.extract(carphone)
        content = carphone.read_bytes()
        moved = io.BytesIO(content)
        moved.seek(1000)
        with carphone.open("rb") as file, carphone.open("rb", buffering=0) as raw:
            for form, name in (
                (content, "<bytes>"),
                (bytearray(content), "<bytes>"),
                (memoryview(content), "<bytes>"),
                (memoryview(content + b"\0")[:-1], "<bytes>"),
                (io.BytesIO(content), "<file>"),
                (moved, "<file>"),
                (file, str(carphone)),
                (raw, str(carphone)),
                (Pipe(content), "<file>"),
                (io.BufferedReader(Pipe(content)), "<file>"),
            ):
                result = c3d.extract(form)
                case = f"{type(form)} {name}"
                assert np.array_equal(result.clip_features, of_path.clip_features), case
                assert np.array_equal(result.clip_times_s, of_path.clip_times_s), case
                video = result.provenance["video"]
                assert video["source"] == name, case
                assert video["fingerprint"]["size"] == len(content), case
                assert set(video["fingerprint"]) == {"size", "sha256"}, case
                assert video["fps"] == of_path.provenance["video"]["fps"], case
            assert not file.closed
            assert not raw.closed

    def test_video_comes_through_a_pipe(self, fake, carphone):
        with subprocess.Popen(["cat", carphone], stdout=subprocess.PIPE) as process:
            result = fake.extract(process.stdout)
        assert np.array_equal(result.clip_features, fake.extract(carphone).clip_features)

    def test_classification_takes_the_same_forms(self, c3d, frames, images, carphone):
        of_array = c3d.classify(frames)
        for form in (iter(frames), images):
            assert np.array_equal(c3d.classify(form).probabilities, of_array.probabilities)
        content = c3d.classify(io.BytesIO(carphone.read_bytes()))
        assert np.array_equal(content.probabilities, c3d.classify(carphone).probabilities)

    def test_frame_of_any_size_is_prepared_as_opencv_does(self, fake):
        random = np.random.default_rng(0)
        for height, width in ((1, 1), (33, 47), (112, 112), (128, 171), (721, 1283)):
            picture = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
            prepared = Frame.from_pixels(0, 0.0, 0.0, picture).picture.prepared("fast")
            assert np.array_equal(prepared, prepare_frame(picture)), (height, width)

    def test_generator_may_reuse_its_array(self, fake, frames):
        # cv2.VideoCapture.read(buffer) does, and frames are resampled one behind.
        def reused():
            buffer = np.empty_like(frames[0])
            for frame in frames:
                buffer[:] = frame
                yield buffer

        window = ClipWindow(fps=25)
        with C3DClient(fake.serving.options.target, window=window) as client:
            result = client.extract(reused(), frames_fps=25)
            whole = client.extract(frames, frames_fps=25)
        assert np.array_equal(result.clip_features, whole.clip_features)
        assert result.provenance["video"]["fingerprint"] == whole.provenance["video"]["fingerprint"]


class TestTimes:
    def test_times_are_unknown_without_a_rate(self, fake, frames, images):
        for form in (frames, list(frames), images):
            result = fake.extract(form)
            assert np.isnan(result.clip_times_s).all()
            assert result.clip_times_s.shape == (4, 2)
            video = result.provenance["video"]
            unknown = ("duration_s", "fps", "frames_fps", "interlaced", "stream")
            assert [video[name] for name in unknown] == [None] * 5
            assert (video["frames"], video["width"], video["height"]) == (COUNT, 176, 144)
            json.dumps(result.provenance, allow_nan=False)

    def test_rate_gives_the_times(self, fake, frames, images):
        for form in (frames, iter(frames), images):
            for fps in (25, 12.5, Fraction(30000, 1001)):
                if form is not frames and fps != 25:
                    continue
                result = fake.extract(form, frames_fps=fps)
                starts = result.clip_starts / float(fps)
                assert result.clip_times_s[:, 0] == pytest.approx(starts)
                assert result.clip_times_s[:, 1] == pytest.approx(starts + 16 / float(fps))
                video = result.provenance["video"]
                assert video["duration_s"] == pytest.approx(COUNT / float(fps))
                assert video["fps"] == pytest.approx(float(fps))
                assert video["frames_fps"] == float(fps)
                json.dumps(result.provenance, allow_nan=False)

    def test_window_with_a_rate_resamples_frames_of_a_known_rate(self, fake, frames):
        target = fake.serving.options.target
        with C3DClient(target, window=ClipWindow(fps=25)) as client:
            half = client.extract(frames, frames_fps=50)
            message = message_of(lambda: client.extract(frames))
        assert message == (
            "fps is 25 and the frames of <array> have no times; give their rate as frames_fps"
        )
        assert np.array_equal(half.clip_features, fake.extract(frames[::2]).clip_features)
        assert half.clip_times_s[0] == pytest.approx([0, 16 / 25])

    def test_arguments_that_do_not_apply_are_one_line(self, fake, frames, images, carphone):
        target = fake.serving.options.target
        for form, options, expected in (
            (carphone, {"frames_fps": 25}, "is a video with times of its own"),
            (carphone.read_bytes(), {"frames_fps": 25}, "is a video with times of its own"),
            (carphone, {"channel_order": "bgr"}, "is for arrays and iterables of frames"),
            (images, {"channel_order": "bgr"}, "is for arrays and iterables of frames"),
            (frames, {"channel_order": "RGB"}, "channel_order is 'RGB'; give 'rgb' or 'bgr'"),
            (frames, {"frames_fps": 0}, "frames_fps is 0; give a number from 0.01 to 1000"),
            (frames, {"frames_fps": float("nan")}, "frames_fps is nan; give"),
            (frames, {"frames_fps": "25"}, "frames_fps is '25'; give"),
        ):
            for call in (fake.extract, fake.classify):
                assert expected in message_of(lambda: call(form, **options)), expected  # noqa: B023
        with C3DClient(target, window=ClipWindow(stream=0)) as client:
            for form in (frames, images):
                message = message_of(lambda: client.extract(form))  # noqa: B023
                assert "has no streams; leave it out" in message
            assert client.extract(carphone.read_bytes()).provenance["video"]["stream"] == 0

    def test_every_format_keeps_unknown_times(self, fake, frames, tmp_path):
        features = fake.extract(frames)
        (tmp_path / "in").mkdir()
        write_features(tmp_path / "in" / "v.npz", features)
        for entry in FORMATS.values():
            path = tmp_path / f"v{entry.suffix}"
            write_features(path, features, format=entry.name)
            read = read_features(path, format=entry.name)
            assert np.isnan(read.clip_times_s).all(), entry.name
            if entry.lossless:
                assert np.array_equal(read.clip_features, features.clip_features), entry.name
                assert read.provenance == features.provenance, entry.name
            out = tmp_path / "out" / f"{entry.name}{entry.suffix * entry.many_videos}"
            for conversion in convert([tmp_path / "in"], out, to=entry.name):
                assert conversion.error is None, entry.name

    def test_tables_have_no_times_and_pages_ask_for_the_rate(self, fake, frames, tmp_path):
        classification = fake.classify(frames)
        file = io.StringIO()
        tables.write_json(file, "v", classification)
        clips = json.loads(file.getvalue())["clips"]
        assert [(c["start_frame"], c["start_s"], c["end_s"]) for c in clips[:2]] == [
            (0, None, None),
            (8, None, None),
        ]
        file = io.StringIO()
        tables.write_csv_header(file)
        tables.write_csv(file, "v", classification)
        rows = list(csv.DictReader(io.StringIO(file.getvalue())))
        assert {(row["start_s"], row["end_s"]) for row in rows} == {("", "")}
        page = tmp_path / "page.html"
        message = message_of(lambda: write_page(page, classification, source=frames))
        assert "give it as frames_fps (--frames-fps)" in message
        assert not page.exists()

    def test_page_reads_frames_again_with_their_rate(self, fake, frames, images, tmp_path):
        page = tmp_path / "page.html"
        bgr = (frames[..., ::-1], "bgr")
        for form, order in ((frames, "rgb"), bgr, (list(frames), "rgb"), (images, "rgb")):
            classification = fake.classify(form, frames_fps=25, channel_order=order)
            write_page(page, classification, source=form)
            assert page.read_text().count("data:image/jpeg") == COUNT
            page.unlink()
        once = fake.classify(iter(frames), frames_fps=25)
        message = message_of(lambda: write_page(page, once, source=iter(frames)))
        assert "cannot be read a second time" in message


class TestProvenance:
    def test_fingerprint_of_frames_is_of_their_pixels_and_shape(self, fake, frames):
        def digest(form, **options):
            video = fake.extract(form, **options).provenance["video"]
            assert list(video["fingerprint"]) == ["pixels_sha256"]
            return video["fingerprint"]["pixels_sha256"]

        expected = digest(frames)
        assert len(expected) == 64
        for form in (list(frames), iter(frames), Tensor(frames)):
            assert digest(form) == expected
        assert digest(frames[..., ::-1], channel_order="bgr") == expected
        changed = frames.copy()
        changed[-1, -1, -1, -1] ^= 1  # in no clip
        others = {
            digest(changed),
            digest(frames[:-1]),
            digest(frames, channel_order="bgr"),
            digest(frames.reshape(COUNT, 176, 144, 3)),
        }
        assert len(others | {expected}) == 5

    def test_fingerprint_of_a_folder_is_of_names_sizes_and_times(self, fake, frames, tmp_path):
        folder = write_images(tmp_path / "v", frames[:16])
        first = fake.extract(folder).provenance["video"]
        assert first["fingerprint"] == find_images(str(folder)).fingerprint()
        assert first["fingerprint"]["images"] == 16
        assert (first["input"], first["source"]) == ("images", str(folder))
        os.utime(folder / "000016.png", ns=(1, 1))
        changed = find_images(str(folder)).fingerprint()
        assert changed != first["fingerprint"]
        (folder / "000017.png").write_bytes((folder / "000016.png").read_bytes())
        assert find_images(str(folder)).fingerprint() not in (changed, first["fingerprint"])
        (folder / "notes.txt").write_text("no image")
        (folder / ".000018.png").write_text("hidden")
        assert find_images(str(folder)).fingerprint()["images"] == 17

    def test_features_of_frames_and_of_a_video_may_be_mixed(self, fake, frames, carphone):
        forms = (frames, iter(frames), carphone, io.BytesIO(carphone.read_bytes()))
        provenances = [fake.extract(form).provenance for form in forms]
        require_same(provenances)
        kinds = [provenance["video"].get("input") for provenance in provenances]
        assert kinds == ["array", "frames", None, "file"]
        assert provenances[0]["video"]["channel_order"] == "rgb"


class TestFaultsOfFrames:
    def test_arrays_of_another_kind_are_one_line_before_any_request(self, fake_serving, frames):
        server = fake_serving()
        small = frames[:20, :8, :12]
        cases = (
            (small.transpose(0, 3, 1, 2), "[20, 3, 8, 12] of uint8; it has channels first"),
            (small.transpose(0, 3, 1, 2), "give [n, height, width, 3]: x.transpose(0, 2, 3, 1)"),
            (small.transpose(3, 0, 1, 2), "x.transpose(1, 2, 3, 0)"),
            (small[:3].transpose(0, 3, 1, 2), "x.transpose(0, 2, 3, 1)"),
            (small / 255, "of float64; give uint8 from 0 to 255"),
            (small.astype(np.float32), "of float32; give uint8"),
            (small.astype(np.int64), "of int64; give uint8"),
            (small.astype(np.uint16), "of uint16; give uint8"),
            (Tensor(small / 255), "of float64; give uint8"),
            (small[0, :, :, 0], "[8, 12] of uint8; give [n, height, width, 3]"),
            (small[..., 0], "it is grey; give [n, height, width, 3]: numpy.repeat(x[..., None]"),
            (small[..., :1], "it is grey; give [n, height, width, 3]: numpy.repeat(x, 3, -1)"),
            (small[0], "it is one frame; give [n, height, width, 3], or a list of frames"),
            (np.concatenate([small, small[..., :1]], 3), "has 4 channels; give [n, height, width,"),
            (small[..., :2], "[20, 8, 12, 2] of uint8; give [n, height, width, 3]"),
            (small[None], "list(x) of several videos is for extract_many"),
            (np.uint8(3), "an array of shape [] of uint8; give"),
            (small[:, :0], "give frames that have pixels"),
        )
        with C3DClient(server.target) as client:
            for array, expected in cases:
                for call in (client.extract, client.classify):
                    assert expected in message_of(lambda: call(array)), expected  # noqa: B023
        assert not server.specs

    def test_wrong_frame_of_an_iterable_is_named_by_its_index(self, fake, frames, carphone):
        small = list(frames[:20, :8, :12])
        decoded = next(decode_frames(carphone))
        cases = (
            (
                frames[0, :8, :12].astype(np.float32),
                "frame 18 is an array of shape [8, 12, 3] of f",
            ),
            (
                frames[0].transpose(2, 0, 1),
                "channels first; give [height, width, 3]: x.transpose(1",
            ),
            (frames[0, ..., 0], "it is grey; give [height, width, 3]: numpy.repeat(x[..., None]"),
            (frames[0][None], "it is several frames; yield each of them, [height, width, 3]"),
            (np.zeros((8, 12, 4), np.uint8), "has 4 channels; give [height, width, 3]"),
            (None, "frame 18 is None; give frames, uint8 [height, width, 3]"),
            (3, "frame 18 is an int; give frames"),
            (b"content", "frame 18 is bytes; give frames"),
            ({"frame": 1}, "frame 18 is a dict; give frames"),
            (decoded, "frame 18 is a Frame; give its .pixels"),
            (Image.new("L", (12, 8)), "it is grey"),
        )
        for frame, expected in cases:
            for form in ([*small[:18], frame, *small[18:]], iter([*small[:18], frame])):
                assert expected in message_of(lambda: fake.extract(form)), expected  # noqa: B023

    def test_another_size_in_the_middle_is_named_by_its_index(self, fake, frames, images):
        form = [*frames[:18], frames[18, :, :-2], *frames[19:]]
        for given in (form, iter(form)):
            message = message_of(lambda: fake.extract(given), VideoDecodeError)  # noqa: B023
            assert message == (
                "<frames>: frame 18 has 174x144 pixels, and those before it 176x144; "
                "give frames of one size"
            )

    def test_array_that_numpy_cannot_read_is_one_line(self, fake, frames):
        class Unreadable(Tensor):
            def __getitem__(self, index):
                return Unreadable(self.array[index])

            def cpu(self):
                return self

        message = message_of(lambda: fake.extract(Unreadable(frames)))
        assert "cannot be read by NumPy (can't convert cuda:0" in message

    def test_error_of_a_generator_is_raised_as_it_is(self, fake, frames):
        def broken():
            yield from frames[:30]
            raise KeyError("of the user")

        with pytest.raises(KeyError, match="of the user"):
            fake.extract(broken())

    def test_too_few_frames_are_an_error(self, fake, frames, images):
        used = iter(frames)
        fake.extract(used)
        for form, expected in (
            (frames[:15], "<array>: has 15 frames; a clip needs 16"),
            (frames[:0], "<array>: has 0 frames; a clip needs 16"),
            ([], "<frames>: has 0 frames; a clip needs 16"),
            (used, "<frames>: has 0 frames; a clip needs 16; an iterator can be read once"),
        ):
            assert message_of(lambda: fake.extract(form), VideoTooShortError) == expected  # noqa: B023

    def test_what_is_no_video_is_named(self, fake, tmp_path):
        text = tmp_path / "a.txt"
        text.write_text("a.mp4\n")
        closed = io.BytesIO(b"a")
        closed.close()
        with text.open() as file:
            cases = [
                (None, "source is None; give a path or URL, frames as uint8 [n, height"),
                (7, "source is an int; give"),
                ({"a.mp4": 1}, "source is a dict; give"),
                (["a.mp4"], "source is a list of paths; give several videos to extract_many"),
                ((tmp_path, tmp_path), "source is a tuple of paths; give several"),
                (file, "source is a file open as text; open it in binary mode, 'rb'"),
                (io.StringIO("a"), "source is a file open as text"),
                (closed, "source is a file that is closed"),
                (os.fsencode(text), "source is a path in bytes; give os.fsdecode(source)"),
                (cv2.VideoCapture(), "source is a VideoCapture of OpenCV; give the video itself"),
            ]
            for form, expected in cases:
                for call in (fake.extract, fake.classify):
                    assert expected in message_of(lambda: call(form)), expected  # noqa: B023

    def test_file_that_reads_text_or_nothing_is_named(self, fake):
        class Reader:
            def __init__(self, value):
                self.value = value

            def read(self, size=-1):
                return self.value

        assert "reads a str; open it in binary" in message_of(lambda: fake.extract(Reader("a")))
        assert "reads None; open it in binary" in message_of(lambda: fake.extract(Reader(None)))

    def test_content_passes_the_checks_of_a_file(self, fake, carphone, tmp_path):
        content = carphone.read_bytes()
        for damaged, expected in (
            (content[: len(content) * 2 // 3], "is cut short"),
            (b"", "is empty (0 bytes)"),
            (b"\0" * 5000, "cannot be opened as a video"),
            (b"<!DOCTYPE html><html><title>Sign in</title></html>" * 10, "Sign in"),
        ):
            path = tmp_path / "video.mp4"
            path.write_bytes(damaged)
            of_path = error_of(VideoDecodeError, fake.extract, path)
            for form, name in (
                (damaged, "<bytes>"),
                (io.BytesIO(damaged), "<file>"),
                (Pipe(damaged), "<file>"),
            ):
                error = error_of(VideoDecodeError, fake.extract, form)
                assert expected in str(error)
                assert error.source == name
                assert error.reason == of_path.reason

    def test_file_that_fails_is_unreadable(self, fake, carphone):
        class Failing(Pipe):
            def readinto(self, buffer):
                if self.content.tell() > 5000:
                    raise OSError(5, "Input/output error")
                return super().readinto(buffer)

        message = message_of(
            lambda: fake.extract(Failing(carphone.read_bytes())), VideoUnreadableError
        )
        assert message == "<file>: cannot be read (Input/output error)"

    def test_full_disk_is_named_where_a_pipe_is_copied(self, fake, carphone, monkeypatch):
        class Full(io.BytesIO):
            def write(self, data):
                raise OSError(28, "No space left on device")

        monkeypatch.setattr("tempfile.TemporaryFile", lambda **_: Full())
        message = message_of(lambda: fake.extract(Pipe(carphone.read_bytes())), OutputError)
        assert "<file> cannot be copied there (No space left on device); free disk" in message


class TestImages:
    def test_order_is_that_of_the_numbers(self, fake, frames, tmp_path):
        expected = fake.extract(frames[:30]).clip_features
        for number, name in enumerate(("{}", "{:03d}", "v_g01_c01_f{:d}", "frame{}_rgb", "a 2 {}")):
            folder = write_images(tmp_path / str(number), frames[:30], name=name, first=0)
            assert np.array_equal(fake.extract(folder).clip_features, expected), name
        # A number with more digits than the pattern has.
        folder = write_images(tmp_path / "long", frames[:30], name="{:02d}", first=85)
        for pattern in ("%02d.png", "*.png"):
            assert np.array_equal(fake.extract(folder / pattern).clip_features, expected)
        assert len(find_images(str(folder / "%02d.png")).names) == 30
        assert error_of(VideoUnreadableError, find_images, str(folder / "%04d.png"))

    def test_pattern_takes_one_kind_of_images(self, fake, frames, tmp_path):
        folder = write_images(tmp_path / "v", frames, name="img_{:05d}")
        write_images(folder, 255 - frames, name="flow_x_{:05d}")
        expected = fake.extract(frames).clip_features
        for pattern in ("img_%05d.png", "img_*.png", "img_[0-9]*.png"):
            assert np.array_equal(fake.extract(folder / pattern).clip_features, expected), pattern
        message = message_of(lambda: fake.extract(folder), VideoDecodeError)
        assert message == (
            f"{folder}: holds images of several kinds (flow_x_*.png, img_*.png); "
            "name those of one kind with a pattern, such as img_%05d.jpg"
        )

    def test_images_that_are_not_one_sequence_are_refused(self, fake, frames, tmp_path):
        def folder(number, names):
            made = tmp_path / str(number)
            made.mkdir()
            for name in names:
                (made / name).write_bytes(image)
            return made

        write_images(tmp_path / "one", frames[:1])
        image = (tmp_path / "one" / "000001.png").read_bytes()
        twenty = [f"{number:02d}.png" for number in range(20)]
        cases = (
            (
                [*twenty[:7], *twenty[9:]],
                "2 of 20 images are missing, the first between 06.png and",
            ),
            (
                [*twenty, "21.png"],
                "1 of 22 images is missing, the first between 19.png and 21.png",
            ),
            ([*twenty, "7.png"], "07.png and 7.png have the same number; remove one of them"),
            ([*twenty, "cover.jpg"], "holds images of several kinds (*.png, cover.jpg)"),
            (
                [f"{n % 2}_{n}.png" for n in range(20)],
                "holds images that differ in more than one number, from 0_0.png to 1_9.png",
            ),
            ([], "is a folder without images (.bmp, .jpeg"),
            (["video.mp4"], "is a folder without images"),
        )
        for number, (names, expected) in enumerate(cases):
            made = folder(number, names)
            message = message_of(lambda: fake.extract(made), VideoDecodeError)  # noqa: B023
            assert message.startswith(f"{made}: {expected}"), message
        missing = tmp_path / "gone"
        for path, expected in (
            (missing, "no such file"),
            (missing / "%06d.jpg", f"no such file, and no folder {missing}"),
            (tmp_path / "one" / "%06d.jpg", "no such file, and no image matches the pattern"),
            (tmp_path / "one" / "*.jpg", "no such file, and no image matches the pattern"),
        ):
            message = message_of(lambda: fake.extract(path), VideoUnreadableError)  # noqa: B023
            assert message == f"{path}: {expected}"

    def test_images_of_several_sizes_are_refused(self, fake, frames, tmp_path):
        folder = write_images(tmp_path / "v", frames[:20])
        write_images(folder, frames[:1, :100], first=8)
        message = message_of(lambda: fake.extract(folder), VideoDecodeError)
        assert message == (
            f"{folder}: 000008.png has 176x100 pixels, and those before it 176x144; "
            "give frames of one size"
        )

    def test_image_that_is_cut_short_is_named_in_every_format(self, frames, tmp_path):
        for suffix in sorted(IMAGE_SUFFIXES):
            path = tmp_path / f"whole{suffix}"
            assert cv2.imwrite(str(path), frames[0, ..., 0] if suffix == ".pgm" else frames[0])
            content = path.read_bytes()
            assert read_image(str(path), name="v").shape == (144, 176, 3), suffix
            size = len(content)
            for kept in (0, 1, 3, 10, 30, 100, size // 4, size // 2, size - 100, size - 1):
                cut = tmp_path / f"cut{suffix}"
                cut.write_bytes(content[:kept])
                error = error_of(VideoDecodeError, read_image, str(cut), name="v")
                assert error.source == "v", (suffix, kept)
                assert error.reason.startswith(f"cut{suffix}: "), (suffix, kept)

    def test_end_mark_of_a_thumbnail_is_not_the_end_of_its_image(self, frames, tmp_path):
        path = write_images(tmp_path, frames[:1], suffix=".jpg") / "000001.jpg"
        content = path.read_bytes()
        thumbnail = b"Exif\0\0" + content[:3000] + b"\xff\xd9"
        segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
        path.write_bytes(content[:2] + segment + content[2:])
        assert read_image(str(path), name="v").shape == (144, 176, 3)
        path.write_bytes(content[:2] + segment + content[2:-500])
        error = error_of(VideoDecodeError, read_image, str(path), name="v")
        assert "is cut short: it has no end mark" in error.reason

    def test_damaged_png_is_an_error(self, frames, tmp_path):
        path = write_images(tmp_path, frames[:1]) / "000001.png"
        content = bytearray(path.read_bytes())
        for position in (20, len(content) // 3, len(content) // 2, len(content) - 20):
            changed = bytearray(content)
            changed[position] ^= 0x10
            path.write_bytes(changed)
            error = error_of(VideoDecodeError, read_image, str(path), name="v")
            assert "000001.png: is " in error.reason

    def test_file_that_is_no_image_says_what_it_is(self, fake, frames, tmp_path):
        for content, expected in (
            (b"<!DOCTYPE html><html><title>Sign in</title></html>", "Sign in"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 3\n", "git-lfs"),
            (b"\0" * 500, "cannot be decoded as an image"),
        ):
            folder = write_images(tmp_path / "v", frames[:20])
            (folder / "000003.png").write_bytes(content)
            message = message_of(lambda: fake.extract(folder), VideoDecodeError)  # noqa: B023
            assert message.startswith(f"{folder}: 000003.png: cannot be decoded as an image")
            assert expected in message

    def test_grey_and_alpha_are_as_in_a_video_and_more_bits_are_refused(self, frames, tmp_path):
        grey = frames[0, ..., 0]
        cv2.imwrite(str(tmp_path / "grey.png"), grey)
        cv2.imwrite(str(tmp_path / "grey.jpg"), grey)
        for name in ("grey.png", "grey.jpg"):
            pixels = read_image(str(tmp_path / name), name="v")
            assert pixels.shape == (144, 176, 3)
            assert (pixels == pixels[..., :1]).all()
        assert np.array_equal(read_image(str(tmp_path / "grey.png"), name="v")[..., 0], grey)
        alpha = np.concatenate([frames[0], grey[..., None]], axis=2)
        Image.fromarray(alpha).save(tmp_path / "alpha.png")
        assert np.array_equal(read_image(str(tmp_path / "alpha.png"), name="v"), frames[0])
        [decoded] = decode_frames(tmp_path / "alpha.png")
        assert np.array_equal(decoded.pixels, frames[0])
        for name, array in (
            ("16.png", grey.astype(np.uint16) * 257),
            ("16.tif", frames[0].astype(np.uint16) * 257),
            ("32.tif", frames[0].astype(np.float32)),
        ):
            assert cv2.imwrite(str(tmp_path / name), array)
            error = error_of(VideoDecodeError, read_image, str(tmp_path / name), name="v")
            assert error.reason.startswith(f"{name}: has {name[:2]} bits a channel; convert"), name

    def test_exif_orientation_turns_an_image(self, frames, tmp_path):
        image = Image.fromarray(frames[0])
        exif = image.getexif()
        exif[0x0112] = 6  # to be turned a quarter clockwise
        image.save(tmp_path / "a.jpg", exif=exif, quality=100, subsampling=0)
        pixels = read_image(str(tmp_path / "a.jpg"), name="v")
        assert pixels.shape == (176, 144, 3)
        turned = np.rot90(frames[0], -1).astype(int)
        assert np.abs(pixels - turned).mean() < 3

    def test_folder_that_changes_meanwhile_is_an_error(self, fake, frames, tmp_path):
        for number, change in enumerate(
            (
                lambda folder: (folder / "000041.png").write_bytes(b"new"),
                lambda folder: (folder / "000040.png").unlink(),
                lambda folder: os.utime(folder / "000001.png", ns=(1, 1)),
            )
        ):
            folder = write_images(tmp_path / str(number), frames)

            def changing(decoded):
                for frame in decoded:
                    if frame.index == 30:
                        change(folder)  # noqa: B023
                    yield frame

            message = message_of(
                lambda: fake.classify(folder, watch=changing),  # noqa: B023
                VideoUnreadableError,
            )
            assert message.startswith(f"{folder}: was changed while it was read")

    def test_name_that_is_not_utf8_is_read(self, fake, frames, tmp_path):
        folder = write_images(tmp_path / "v", frames[:20])
        broken = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
        folder.rename(broken)
        result = fake.extract(broken)
        assert result.provenance["video"]["source"].endswith("caf\\xe9")
        (broken / "000003.png").write_bytes(b"\0" * 100)
        assert "caf\\xe9: 000003.png" in message_of(lambda: fake.extract(broken), VideoDecodeError)


class TestMany:
    @pytest.mark.long
    def test_arrays_and_other_forms_are_sources(self, c3d, frames, images, carphone):
        sources = [frames, list(frames), iter(frames), images, images / "*.png"]
        single = c3d.extract(frames, frames_fps=10)
        outcomes = list(c3d.extract_many(sources, frames_fps=10, workers=2, in_order=True))
        for source, outcome in zip(sources, outcomes, strict=True):
            assert outcome.source is source
            result = outcome.unwrap()
            assert np.array_equal(result.clip_features, single.clip_features)
            assert np.array_equal(result.clip_times_s, single.clip_times_s)
        content = carphone.read_bytes()
        for outcome in c3d.extract_many([carphone, content, io.BytesIO(content)]):
            assert outcome.unwrap().clip_features.shape == (14, 4096)

    def test_short_and_uneven_frames_are_outcomes(self, fake, frames, tmp_path):
        uneven = [*frames[:20], frames[0, :-2]]
        (tmp_path / "empty").mkdir()
        sources = [frames[:3], frames, iter(uneven), tmp_path / "empty"]
        outcomes = list(fake.extract_many(sources, in_order=True))
        kinds = [type(outcome.error) for outcome in outcomes]
        assert kinds == [
            VideoTooShortError,
            type(None),
            VideoDecodeError,
            VideoUnreadableError,
        ]

    def test_one_video_instead_of_several_is_refused(self, fake, frames, images, carphone):
        content = carphone.read_bytes()
        with carphone.open("rb") as file:
            for one, expected in (
                (frames, f"sources is an array of shape [{COUNT}, 144, 176, 3]; give a list"),
                (frames[None], "sources is an array of shape [1, "),
                (Tensor(frames), f"sources is an array of shape [{COUNT}, 144"),
                (frames[0], "sources is an array of shape [144, 176, 3]; give a list"),
                (content, "sources is bytes; give a list"),
                (memoryview(content), "sources is a memoryview; give a list"),
                (file, "sources is a BufferedReader; give a list"),
                (images, "sources is one path, "),
            ):
                assert expected in message_of(lambda: fake.extract_many(one)), expected  # noqa: B023
        for frames_of_one in (list(frames), iter(frames)):
            message = message_of(lambda: list(fake.extract_many(frames_of_one)))  # noqa: B023
            assert "it is one frame; give [n, height, width, 3], or a list of frames" in message


class TestWithOtherOptions:
    def test_layers_of_frames_are_those_of_the_folder(self, narrow_server, frames, images):
        with C3DClient(narrow_server.target, layers=("pool5", "fc6")) as client:
            of_array, of_folder = client.extract(frames), client.extract(images)
        assert of_array.clip_features.shape[:4] == (4, 1, 4, 4)
        assert np.array_equal(of_array.clip_features, of_folder.clip_features)
        assert np.array_equal(of_array.layers["fc6"], of_folder.layers["fc6"])

    def test_shards_and_names_take_folders_of_images(self, run, narrow_server, tree, tmp_path):
        out = tmp_path / "out"
        server = ("--server", narrow_server.target, "--out", out, "--name", "{parent}/{stem}.npz")
        for shard in ("1/2", "2/2"):
            run("extract", "--frames", tree, "--shard", shard, *server)
        written = sorted(str(path.relative_to(out)) for path in out.rglob("*.npz"))
        assert written == ["run/v1.npz", "run/v2.npz", "skip/v1.npz"]

    def test_kept_rows_of_images_at_another_rate_are_not_used(
        self, fake_serving, images, tmp_path, monkeypatch
    ):
        monkeypatch.setattr(partial, "KEEP_AFTER_S", 0)

        def on_predict(_request, _rows, context):
            if server.is_leaving and len(server.requests) > 1:
                context.abort(grpc.StatusCode.UNAVAILABLE, "going away")

        server = fake_serving(on_predict)
        options = ServingOptions(server.target, batch_size=1, max_in_flight=1, patience_s=0)

        def row(frames_fps, *, is_leaving):
            server.is_leaving = is_leaving
            server.requests.clear()
            with C3DClient(window=ClipWindow(fps=10), options=options) as client:
                job = ExtractJob(client, tmp_path / "out", frames_fps=frames_fps)
                (outcome,) = job.run(expand([images], scan=Scan(frames=True)), workers=1)
            return outcome

        assert row(10, is_leaving=True).status == "failed"
        assert row(5, is_leaving=False).clips_kept == 0
        path = row(5, is_leaving=False).path
        with C3DClient(window=ClipWindow(fps=10), options=options) as client:
            expected = client.extract(images, frames_fps=5)
        assert np.array_equal(read_features(path).clip_features, expected.clip_features)
        path.unlink()
        assert row(10, is_leaving=True).status == "failed"
        assert row(10, is_leaving=False).clips_kept == 1


class TestRollOut:
    def make(self, fake_serving, changes_at):
        """A server whose version changes before the answer to a request of this number."""

        def on_predict(request, rows, context):
            if server.number(request) == changes_at:
                server.version += 1

        server = fake_serving(on_predict)
        return server

    def test_frames_that_can_be_read_again_are(self, fake_serving, frames, images, carphone):
        content = carphone.read_bytes()
        for form in (frames, list(frames), images, content, io.BytesIO(content), Pipe(content)):
            server = self.make(fake_serving, 1)
            with C3DClient(server.target) as client:
                result = client.extract(form)
            assert result.provenance["model"]["version"] == 2
            video = result.provenance["video"]
            with C3DClient(server.target) as client:
                again = form if not isinstance(form, Pipe) else Pipe(content)
                assert client.extract(again).provenance["video"] == video

    def test_roll_out_between_two_iterators_is_noticed_before_the_second(
        self, fake_serving, frames
    ):
        server = fake_serving()
        with C3DClient(server.target) as client:
            assert client.extract(iter(frames)).provenance["model"]["version"] == 1
            server.version = 2
            assert client.extract(iter(frames)).provenance["model"]["version"] == 2

    def test_roll_out_during_an_iterator_is_one_error(self, fake_serving, frames):
        server = self.make(fake_serving, 1)
        with C3DClient(server.target) as client:
            message = message_of(lambda: client.extract(iter(frames)), ServingError)
            assert message == (
                f"{server.target}: version 2 of the model answered after version 1, and the frames "
                "of an iterator cannot be read again; call again with a new iterator, or with a "
                "list or an array"
            )
            assert client.extract(iter(frames)).provenance["model"]["version"] == 2


class TestMemory:
    def test_few_frames_of_a_generator_are_alive_at_a_time(self, fake_serving):
        alive, most = 0, 0
        lock = threading.RLock()  # garbage may be collected within it

        def count(change):
            nonlocal alive, most
            with lock:
                alive += change
                most = max(most, alive)

        class Counted(np.ndarray):
            pass

        def generate():
            for number in range(600):
                frame = np.full((120, 160, 3), number % 251, np.uint8).view(Counted)
                count(1)
                weakref.finalize(frame, count, -1)
                yield frame
                del frame

        server = fake_serving(lambda *_: time.sleep(0.01))
        with C3DClient(server.target) as client:
            result = client.extract(generate())
        gc.collect()
        assert result.provenance["video"]["frames"] == 600
        assert alive == 0
        assert most <= 3, most


@pytest.fixture
def tree(frames, tmp_path):
    """A data set of frame folders: two classes, a folder with a gap, and other files."""
    root = tmp_path / "dumps"
    write_images(root / "run" / "v1", frames, suffix=".jpg")
    write_images(root / "run" / "v2", frames[::-1], suffix=".jpg")
    write_images(root / "skip" / "v1", frames[:24], suffix=".jpg", name="img_{:05d}")
    gap = write_images(root / "skip" / "torn", frames[:24], suffix=".jpg")
    (gap / "000010.jpg").unlink()
    (root / "classes.txt").write_text("run\nskip\n")
    write_images(root / ".cache", frames[:20])
    return root


class TestExpand:
    def names(self, *inputs, **options):
        scan = Scan(frames=True)
        return [source.name for source in expand(inputs, scan=scan, **options)], str(scan)

    def test_each_folder_with_images_is_a_video(self, tree, monkeypatch):
        names, left_out = self.names(tree)
        assert names == ["run/v1", "run/v2", "skip/torn", "skip/v1"]
        assert left_out == "1 file left out: 1 .txt"
        monkeypatch.chdir(tree)
        assert self.names("run")[0] == ["v1", "v2"]
        assert self.names("run/v1")[0] == ["run/v1"]
        assert self.names("./run/v1/")[0] == ["run/v1"]
        assert self.names("run", root=".")[0] == ["run/v1", "run/v2"]
        assert self.names("run/*")[0] == ["v1", "v2"]
        assert self.names("*/v1")[0] == ["run/v1", "skip/v1"]
        assert self.names("**/v1")[0] == ["run/v1", "skip/v1"]
        monkeypatch.chdir(tree / "run" / "v1")
        assert self.names(".")[0] == ["v1"]

    def test_pattern_of_images_names_those_of_each_folder(self, tree, frames, monkeypatch):
        monkeypatch.chdir(tree)
        for pattern, expected in (
            ("run/v1/%06d.jpg", [("run/v1/%06d.jpg", "run/v1")]),
            ("run/*/%06d.jpg", [("run/v1/%06d.jpg", "v1"), ("run/v2/%06d.jpg", "v2")]),
            ("*/*/img_%05d.jpg", [("skip/v1/img_%05d.jpg", "skip/v1")]),
            ("**/img_*.jpg", [("skip/v1/img_*.jpg", "skip/v1")]),
            ("*/img_*.jpg", None),
            ("run/v1/%06d.png", None),
        ):
            scan = Scan(frames=True)
            if expected is None:
                message = str(error_of(UsageError, expand, [pattern], scan=scan))
                assert message.startswith(f"{pattern}: "), pattern
                assert "no images" in message, pattern
                continue
            sources = expand([pattern], scan=scan)
            assert [(source.uri, source.name) for source in sources] == expected, pattern
        assert self.names("run/v1/%06d.jpg", root="run")[0] == ["v1"]

    def test_what_is_no_folder_of_images_is_named(self, tree, carphone):
        (tree / "empty").mkdir()
        for given, expected in (
            (carphone, "is a file; give a folder of images, or folders of them"),
            (tree / "gone", "is not there; give a folder of images"),
            ("s3://bucket/frames/", "images are read from folders on this machine; copy them"),
            (tree / "empty", "no images there (files named .bmp"),
        ):
            message = str(error_of(UsageError, expand, [given], scan=Scan(frames=True)))
            assert message.startswith(f"{given}: {expected}"), message
        assert "takes no videos" in str(error_of(UsageError, Scan, any_file=True, frames=True))

    def test_images_without_the_option_are_pointed_out(self, tree):
        message = str(error_of(UsageError, expand, [tree]))
        assert message.endswith("--any takes all; --frames takes folders of images")

    def test_two_folders_of_one_name_are_refused(self, tree):
        given = [tree / "run", tree / "skip"]
        message = str(error_of(UsageError, expand, given, scan=Scan(frames=True)))
        assert "would both be written as 'v1'" in message
        assert len(expand(given, root=tree, scan=Scan(frames=True))) == 4

    def test_folder_that_links_to_itself_is_searched_once(self, tree):
        (tree / "run" / "again").symlink_to(tree)
        assert self.names(tree)[0] == ["run/v1", "run/v2", "skip/torn", "skip/v1"]


class TestCommands:
    @pytest.fixture
    def extract(self, run, narrow_server, tree, tmp_path):
        def extract(*options, out=tmp_path / "out", inputs=tree):
            server = ("--server", narrow_server.target)
            return run("extract", "--frames", inputs, "--out", out, *server, *options)

        return extract

    def test_each_folder_of_images_is_extracted_under_its_path(
        self, extract, c3d, frames, tree, tmp_path
    ):
        out = tmp_path / "out"
        code, _, lines = extract("--frames-fps", "25")
        assert code == 1
        assert "c3d: 3 videos done, 10 clips; 1 failed, listed in" in "\n".join(lines)
        assert any("skip/torn: 1 of 24 images is missing" in line for line in lines)
        assert lines[-1] == "c3d: 1 file left out: 1 .txt"
        written = sorted(str(path.relative_to(out)) for path in out.rglob("*.*"))
        assert written == ["failures.csv", "run/v1.npz", "run/v2.npz", "skip/v1.npz"]
        features = read_features(out / "run" / "v1.npz")
        single = c3d.extract(tree / "run" / "v1", frames_fps=25)
        assert np.array_equal(features.clip_features, single.clip_features)
        assert np.array_equal(features.clip_times_s, single.clip_times_s)
        assert features.provenance == single.provenance
        arrays = np.stack([cv2.imread(str(p)) for p in sorted((tree / "run" / "v1").iterdir())])
        of_arrays = c3d.extract(arrays, channel_order="bgr")
        assert np.array_equal(features.clip_features, of_arrays.clip_features)
        with (out / "failures.csv").open() as file:
            [failure] = csv.DictReader(file)
        assert (failure["video"], failure["error_type"]) == ("skip/torn", "VideoDecodeError")

    def test_second_run_does_what_is_left(self, extract, tree, tmp_path):
        extract("--frames-fps", "25")
        before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.npz")}
        code, _, lines = extract("--frames-fps", "25")
        assert code == 1
        assert "0 videos done, 0 clips; 3 skipped, done before; 1 failed" in "\n".join(lines)
        assert {path: path.stat().st_mtime_ns for path in before} == before
        # The missing image arrives, and another image is written again.
        source = tree / "skip" / "torn"
        (source / "000010.jpg").write_bytes((source / "000009.jpg").read_bytes())
        os.utime(tree / "run" / "v2" / "000001.jpg", ns=(5, 5))
        code, _, lines = extract("--frames-fps", "25")
        assert code == 0
        assert "2 videos done, 6 clips; 2 skipped, done before" in "\n".join(lines)
        assert not (tmp_path / "out" / "failures.csv").exists()

    def test_outputs_with_another_rate_are_refused(self, extract, tmp_path):
        extract()
        assert np.isnan(read_features(tmp_path / "out" / "run" / "v1.npz").clip_times_s).all()
        code, _, lines = extract("--frames-fps", "30")
        assert code == 2
        assert "3 of 3 done files were made with frames-fps unknown, not 30" in lines[-1]
        code, _, lines = extract("--frames-fps", "30", "--overwrite")
        assert "3 videos done" in "\n".join(lines)
        assert "with frames-fps 30.0, not 15" in extract("--frames-fps", "15")[2][-1]
        assert "with frames-fps 30.0, not unknown" in extract()[2][-1]

    def test_options_that_do_not_apply_are_refused_before_any_request(
        self, run, closed_port, tree, video
    ):
        server = ("--server", closed_port)
        for command, options, expected in (
            ("extract", ("--frames", "--fps", 10), "--fps 10 needs the times of the frames; give"),
            ("extract", ("--frames", "--any"), "--any takes videos of every suffix"),
            ("extract", ("--frames", "--stream", 0), "--stream 0 is for videos"),
            ("extract", ("--frames-fps", 25), "--frames-fps is the rate of --frames"),
            ("classify", ("--frames-fps", 25), "--frames-fps is the rate of --frames"),
            ("classify", ("--frames", "--html", "a.html"), "--html draws over time; give"),
            ("classify", ("--frames", "--timeline", "a.png"), "--timeline draws over time; give"),
        ):
            code, out, lines = run(command, tree / "run", *options, *server)
            assert (code, out, len(lines)) == (2, "", 1), expected
            assert lines[0].startswith(f"c3d: {expected}"), lines
        code, _, lines = run("extract", "--frames", video, *server)
        assert code == 2
        assert lines == [f"c3d: {video}: is a file; give a folder of images, or folders of them"]
        code, _, lines = run("extract", "--frames", tree, "--frames-fps", 0, *server)
        assert (code, len(lines)) == (2, 1)

    def test_list_on_standard_input_names_folders(self, extract, tree, tmp_path, monkeypatch):
        listed = io.TextIOWrapper(io.BytesIO(f"{tree / 'run' / 'v1'}\n".encode()))
        monkeypatch.setattr("sys.stdin", listed)
        code, _, _ = extract(inputs="-")
        assert code == 0
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["v1.npz"]

    def test_classes_of_a_folder_of_images_are_named(self, run, narrow_server, c3d, tree, tmp_path):
        server = ("--server", narrow_server.target)
        folder = tree / "run" / "v1"
        expected = c3d.classify(folder)
        code, out, _ = run("classify", "--frames", folder, "--per-clip", *server)
        assert code == 0
        assert out.startswith(f"{folder}: 4 clips\n")
        assert "  frame        8  " in out
        assert "nan" not in out
        code, out, _ = run("classify", "--frames", folder, "--json", *server)
        document = json.loads(out)
        assert document["clips"][1]["start_s"] is None
        assert document["top"][0]["probability"] == expected.top[0].probability
        code, out, lines = run("classify", "--frames", tree, "--csv", *server)
        assert code == 1
        assert any(line.startswith(f"c3d: {tree}/skip/torn: 1 of 24") for line in lines)
        page = tmp_path / "page.html"
        options = ("--frames-fps", 25, "--html", page)
        assert run("classify", "--frames", folder, *options, *server)[0] == 0
        assert page.read_text().count("data:image/jpeg") == COUNT

    def test_video_is_extracted_by_the_command_and_its_frames_by_the_library(
        self, run, narrow_server, c3d, tmp_path
    ):
        frames = pixels()
        write_video(
            tmp_path / "a.mkv", COUNT, width=176, height=144, draw=lambda number: frames[number]
        )
        decoded = np.stack([frame.pixels for frame in decode_frames(tmp_path / "a.mkv")])
        out = tmp_path / "out"
        server = ("--server", narrow_server.target)
        assert run("extract", tmp_path / "a.mkv", "--out", out, *server)[0] == 0
        of_video = read_features(out / "a.mkv.npz")
        of_array = c3d.extract(decoded, frames_fps=25)
        assert np.array_equal(of_video.clip_features, of_array.clip_features)
        assert of_video.clip_times_s == pytest.approx(of_array.clip_times_s, abs=2e-3)


def test_client_imports_no_torch_and_no_pillow(frames, narrow_server):
    program = (
        "import sys, numpy\n"
        "from c3d_client import C3DClient\n"
        f"with C3DClient({narrow_server.target!r}) as c3d:\n"
        "    c3d.extract(numpy.zeros((16, 20, 20, 3), numpy.uint8))\n"
        "print(sorted({'torch', 'PIL', 'tensorflow'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
