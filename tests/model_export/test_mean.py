"""The mean: three numbers or a cube, every file that holds one, and the crop in the right place."""

import bz2
import hashlib
import io

import numpy as np
import pytest
from c3d_export.digest import file_sha256
from c3d_export.errors import AssetError
from c3d_export.mean import SPORTS1M_SCALARS, UCF101, read_mean

CUBE = (16, 128, 171, 3)


def position_cube(dtype=np.float32) -> np.ndarray:
    """A cube whose values say where they are: blue the row, green the column, red the frame."""
    frames, rows, columns = np.meshgrid(*map(np.arange, CUBE[:3]), indexing="ij")
    return np.stack([rows, columns, frames], -1).astype(dtype)


def npy(array) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def varint(number: int) -> bytes:
    low, rest = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + varint(rest) if rest else bytes([low])


def blob(array, *, shape=None, dimensions=(1, 2, 3, 4, 5), data=6) -> bytes:
    """A bare BlobProto: num, channels, length, height and width, then packed floats."""
    shape = (1, *array.shape) if shape is None else shape
    content = array.astype("<f4").tobytes()
    numbers = b"".join(varint(n << 3) + varint(s) for n, s in zip(dimensions, shape, strict=True))
    return numbers + varint(data << 3 | 2) + varint(len(content)) + content


def channels_first(cube) -> np.ndarray:
    return cube.transpose(3, 0, 1, 2)


@pytest.fixture
def write(tmp_path):
    def write(content: bytes, name: str = "mean.binaryproto") -> str:
        (tmp_path / name).write_bytes(content)
        return str(tmp_path / name)

    return write


class TestNumbers:
    def test_stand_for_blue_green_and_red_everywhere(self):
        mean = read_mean("1,2.5,255")
        assert mean.bgr.shape == (16, 112, 112, 3)
        assert mean.bgr.dtype == np.float32
        assert (mean.bgr == np.array([1, 2.5, 255], np.float32)).all()
        assert mean.source == "1,2.5,255"
        assert mean.file_sha256 is None

    def test_of_sports1m_are_those_of_its_cubes_crop(self):
        assert read_mean(SPORTS1M_SCALARS).describe()["crop_means_bgr"] == [100.6, 108.1, 107.8]

    @pytest.mark.parametrize("spec", ["1,2,x", "1,,3", ",,"])
    def test_that_are_none_are_refused(self, spec):
        with pytest.raises(AssetError, match=f"mean '{spec}': three numbers B,G,R expected"):
            read_mean(spec)

    @pytest.mark.parametrize("spec", ["-1,2,3", "1,2,256", "nan,1,2", "1,inf,2"])
    def test_that_no_pixel_can_have_are_refused(self, spec):
        with pytest.raises(AssetError, match="must lie between 0 and 255"):
            read_mean(spec)

    def test_of_another_count_are_taken_for_a_file(self):
        with pytest.raises(AssetError, match="1,2: cannot be read"):
            read_mean("1,2")


FILES = {
    "npy, channels last": npy(position_cube()),
    "npy, channels first": npy(channels_first(position_cube())),
    "npy, one more axis": npy(channels_first(position_cube())[None]),
    "npy, float64": npy(position_cube(np.float64)),
    "npy, Fortran order": npy(np.asfortranarray(position_cube())),
    "npy, big end first": npy(position_cube(">f4")),
    "npy.bz2": bz2.compress(npy(position_cube()), 1),
    "binaryproto": blob(channels_first(position_cube())),
    "binaryproto, bz2": bz2.compress(blob(channels_first(position_cube())), 1),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_cube_is_cropped_at_rows_8_to_120_and_columns_29_to_141(write, kind):
    path = write(FILES[kind], "cube")
    mean = read_mean(path)
    rows, columns, frames = (mean.bgr[..., channel] for channel in range(3))
    assert mean.bgr.shape == (16, 112, 112, 3)
    assert mean.bgr.dtype == np.float32
    assert (rows == np.arange(8, 120)[None, :, None]).all()
    assert (columns == np.arange(29, 141)[None, None, :]).all()
    assert (frames == np.arange(16)[:, None, None]).all()


def test_a_cube_says_where_it_is_from(write):
    path = write(FILES["binaryproto"])
    mean = read_mean(path)
    assert mean.describe() == {
        "source": "mean.binaryproto",
        "sha256": hashlib.sha256(position_cube()[:, 8:120, 29:141].tobytes()).hexdigest(),
        "known_as": "",
        "file_sha256": hashlib.sha256(FILES["binaryproto"]).hexdigest(),
        "crop_means_bgr": [63.5, 84.5, 7.5],
    }


class TestRefuses:
    def refused(self, path, words):
        with pytest.raises(AssetError, match=words) as caught:
            read_mean(path)
        assert path in str(caught.value)

    def test_a_missing_file(self, tmp_path):
        self.refused(str(tmp_path / "absent.npy"), "No such file")

    def test_a_folder(self, tmp_path):
        self.refused(str(tmp_path), "Is a directory")

    @pytest.mark.parametrize("shape", [(16, 112, 112, 3), (128, 171, 3), (3, 128, 171, 16), ()])
    def test_an_array_of_another_shape(self, write, shape):
        path = write(npy(np.ones(shape, np.float32)))
        self.refused(path, r"fits no C3D clip; expected \[16, 128, 171, 3\] or \[3, 16, 128, 171\]")

    def test_a_blob_of_another_shape(self, write):
        path = write(blob(np.ones((3, 16, 128, 128))))
        self.refused(path, r"shape \[1, 3, 16, 128, 128\] fits no C3D clip")

    @pytest.mark.parametrize("dtype", [np.uint8, np.int64, bool])
    def test_whole_numbers(self, write, dtype):
        path = write(npy(np.ones(CUBE, dtype)))
        self.refused(path, f"an array of {np.dtype(dtype)}, expected floating point")

    @pytest.mark.parametrize("value", [-0.5, 255.5, np.nan, np.inf, 1e300])
    def test_a_value_that_no_pixel_can_have(self, write, value):
        cube = position_cube(np.float64)
        cube[3, 60, 60, 1] = value
        self.refused(write(npy(cube)), "must lie between 0 and 255")

    def test_a_pickled_array(self, write):
        self.refused(write(npy(np.array([None], object))), "a damaged .npy file")

    @pytest.mark.parametrize(
        ("kind", "words"),
        [
            ("npy, channels last", "a damaged .npy file"),
            ("npy.bz2", "a damaged bzip2 file"),
            ("binaryproto", "not a mean .ends early: 4197513 bytes are missing"),
        ],
    )
    def test_a_file_cut_short(self, write, kind, words):
        self.refused(write(FILES[kind][:5000]), words)

    @pytest.mark.parametrize("length", [1, 2, 7, 9])
    def test_a_blob_cut_within_its_numbers(self, write, length):
        self.refused(write(FILES["binaryproto"][:length]), "not a mean|bytes of numbers where")

    def test_bzip2_that_is_none(self, write):
        self.refused(write(b"BZh9" + b"nonsense" * 99), "a damaged bzip2 file")

    @pytest.mark.parametrize(
        "content", [b"\xff" * 999, b"no mean here\n" * 99, b"\x89HDF\r\n\x1a\n" + bytes(99)]
    )
    def test_something_else(self, write, content):
        words = "not a mean .not a protobuf message.; expected .npy, or .binaryproto as C3D-v1.0"
        self.refused(write(content), words)

    def test_an_empty_file(self, write):
        self.refused(write(b""), "0 bytes of numbers")

    def test_a_blob_of_less_than_its_shape(self, write):
        path = write(blob(np.ones(100), shape=(1, 3, 16, 128, 171)))
        self.refused(path, r"400 bytes of numbers .* \[1, 3, 16, 128, 171\] needs 4202496")

    def test_a_blob_of_the_later_caffe(self, write):
        """There height is field 3, width 4 and the numbers 5: nothing like C3D-v1.0's."""
        path = write(blob(np.ones((3, 128, 171)), dimensions=(1, 2, 3, 4), data=5))
        self.refused(path, "not a mean .written by a later Caffe .C3D-v1.1 or BVLC")


class TestTheRealFiles:
    @pytest.fixture
    def train01(self, assets):
        return assets / "mean" / "train01_16_128_171_mean.binaryproto"

    def test_of_train01_has_its_means(self, train01):
        mean = read_mean(str(train01))
        assert mean.bgr.mean(axis=(0, 1, 2)) == pytest.approx([95.1, 102.9, 107.8], abs=0.06)
        assert mean.file_sha256 == file_sha256(train01)
        assert mean.known_as == UCF101

    def test_of_train01_agree_exactly_in_every_format(self, assets, train01, write):
        packed = assets / "mean" / "train01_16_128_171_mean.npy.bz2"
        unpacked = bz2.decompress(packed.read_bytes())
        last = np.load(io.BytesIO(unpacked)).transpose(1, 2, 3, 0)
        files = [str(train01), str(packed), write(unpacked, "a.npy"), write(npy(last), "b.npy")]
        means = [read_mean(path) for path in files]
        assert all(np.array_equal(mean.bgr, means[0].bgr) for mean in means)
        assert len({mean.describe()["sha256"] for mean in means}) == 1
        assert len({mean.file_sha256 for mean in means}) == 4

    def test_of_another_network_is_refused(self, assets):
        path = str(assets / "mean" / "fb_train16_128_mean.binaryproto")
        with pytest.raises(AssetError, match=r"shape \[1, 3, 16, 128, 128\] fits no C3D clip"):
            read_mean(path)

    def test_with_its_tail_cut_off_is_refused(self, train01, write):
        with pytest.raises(AssetError, match="ends early"):
            read_mean(write(train01.read_bytes()[:-1]))
