"""The mean: three numbers or a cube, every file format, and the crop at the right position."""

import bz2
import hashlib
import io

import numpy as np
import pytest
from c3d_export.errors import AssetError
from c3d_export.mean import SPORTS1M_SCALARS, UCF101, read_mean
from c3d_export.weights.canonical import file_sha256
from support.caffe_bytes import blob_bytes, integer, later_dialect_blob_bytes, nested

CUBE = (16, 128, 171, 3)


def position_cube(dtype=np.float32) -> np.ndarray:
    """Return a cube of its own coordinates: blue is the row, green the column, red the frame."""
    frames, rows, columns = np.meshgrid(*map(np.arange, CUBE[:3]), indexing="ij")
    return np.stack([rows, columns, frames], -1).astype(dtype)


def npy(array) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def channels_first(cube) -> np.ndarray:
    return cube.transpose(3, 0, 1, 2)


@pytest.fixture
def write(tmp_path):
    def write(content: bytes, name: str = "mean.binaryproto") -> str:
        (tmp_path / name).write_bytes(content)
        return str(tmp_path / name)

    return write


class TestNumbers:
    def test_numbers_are_blue_green_and_red_of_every_pixel(self):
        mean = read_mean("1,2.5,255")
        assert mean.bgr.shape == (16, 112, 112, 3)
        assert mean.bgr.dtype == np.float32
        assert (mean.bgr == np.array([1, 2.5, 255], np.float32)).all()
        assert mean.source == "1,2.5,255"
        assert mean.file_sha256 is None

    def test_sports1ms_numbers_are_the_average_of_its_cubes_crop(self):
        assert read_mean(SPORTS1M_SCALARS).describe()["crop_means_bgr"] == [100.6, 108.1, 107.8]

    def test_other_text_is_an_error(self):
        for spec in ("1,2,x", "1,,3", ",,"):
            with pytest.raises(AssetError, match=f"mean '{spec}': three numbers B,G,R expected"):
                read_mean(spec)

    def test_numbers_out_of_a_pixels_range_are_an_error(self):
        for spec in ("-1,2,3", "1,2,256", "nan,1,2", "1,inf,2"):
            with pytest.raises(AssetError, match="must lie between 0 and 255"):
                read_mean(spec)

    def test_another_count_of_numbers_is_a_path(self):
        with pytest.raises(AssetError, match="1,2: cannot be read"):
            read_mean("1,2")


FILES = {
    "npy, channels last": npy(position_cube()),
    "npy, channels first": npy(channels_first(position_cube())),
    "npy, one more axis": npy(channels_first(position_cube())[None]),
    "npy, float64": npy(position_cube(np.float64)),
    "npy, Fortran order": npy(np.asfortranarray(position_cube())),
    "npy, big-endian": npy(position_cube(">f4")),
    "npy.bz2": bz2.compress(npy(position_cube()), 1),
    "binaryproto": blob_bytes(channels_first(position_cube())),
    "binaryproto, bz2": bz2.compress(blob_bytes(channels_first(position_cube())), 1),
}


class TestCubes:
    def test_crop_is_rows_8_to_120_and_columns_29_to_141(self, write):
        for kind, content in FILES.items():
            mean = read_mean(write(content, "cube"))
            rows, columns, frames = (mean.bgr[..., channel] for channel in range(3))
            assert mean.bgr.shape == (16, 112, 112, 3), kind
            assert mean.bgr.dtype == np.float32, kind
            assert (rows == np.arange(8, 120)[None, :, None]).all(), kind
            assert (columns == np.arange(29, 141)[None, None, :]).all(), kind
            assert (frames == np.arange(16)[:, None, None]).all(), kind

    def test_description_has_source_and_digests(self, write):
        mean = read_mean(write(FILES["binaryproto"]))
        assert mean.describe() == {
            "source": "mean.binaryproto",
            "sha256": hashlib.sha256(position_cube()[:, 8:120, 29:141].tobytes()).hexdigest(),
            "known_as": "",
            "file_sha256": hashlib.sha256(FILES["binaryproto"]).hexdigest(),
            "crop_means_bgr": [63.5, 84.5, 7.5],
        }


class TestErrors:
    def check(self, path, match):
        with pytest.raises(AssetError, match=match) as caught:
            read_mean(path)
        assert path in str(caught.value)

    def test_path_that_cannot_be_read_is_an_error(self, tmp_path):
        self.check(str(tmp_path / "absent.npy"), "No such file")
        self.check(str(tmp_path), "it is a folder; give the mean in it")

    def test_another_shape_is_an_error(self, write):
        expected = r"fits no C3D clip; expected \[16, 128, 171, 3\] or \[3, 16, 128, 171\]"
        for shape in ((16, 112, 112, 3), (128, 171, 3), (3, 128, 171, 16), ()):
            self.check(write(npy(np.ones(shape, np.float32))), expected)
        path = write(blob_bytes(np.ones((3, 16, 128, 128))))
        self.check(path, r"shape \[1, 3, 16, 128, 128\] fits no C3D clip")

    def test_integers_are_an_error(self, write):
        for dtype in (np.uint8, np.int64, bool):
            path = write(npy(np.ones(CUBE, dtype)))
            self.check(path, f"an array of {np.dtype(dtype)}, expected floating point")

    def test_value_out_of_a_pixels_range_is_an_error(self, write):
        for value in (-0.5, 255.5, np.nan, np.inf, 1e300):
            cube = position_cube(np.float64)
            cube[3, 60, 60, 1] = value
            self.check(write(npy(cube)), "must lie between 0 and 255")

    def test_pickled_array_is_an_error(self, write):
        self.check(write(npy(np.array([None], object))), "a damaged .npy file")

    def test_truncated_file_is_an_error(self, write):
        for kind, match in (
            ("npy, channels last", "a damaged .npy file"),
            ("npy.bz2", "a damaged bzip2 file"),
            ("binaryproto", "not a mean .ends early: 4197513 bytes are missing"),
        ):
            self.check(write(FILES[kind][:5000]), match)

    def test_blob_truncated_within_its_sizes_is_an_error(self, write):
        for length in (1, 2, 7, 9):
            path = write(FILES["binaryproto"][:length])
            self.check(path, "not a mean|bytes of numbers where")

    def test_damaged_bzip2_is_an_error(self, write):
        self.check(write(b"BZh9" + b"nonsense" * 99), "a damaged bzip2 file")

    def test_other_content_is_an_error(self, write):
        match = "not a mean .not a protobuf message.; expected .npy, or .binaryproto as C3D-v1.0"
        for content in (b"\xff" * 999, b"no mean here\n" * 99):
            self.check(write(content), match)
        hdf5 = b"\x89HDF\r\n\x1a\n" + bytes(99)
        self.check(write(hdf5), "not a mean: it is an HDF5 file; give the mean itself")

    def test_empty_file_is_an_error(self, write):
        self.check(write(b""), r"it is empty \(0 bytes\); download it again")

    def test_blob_with_too_few_numbers_for_its_shape_is_an_error(self, write):
        sizes = b"".join(integer(n, size) for n, size in enumerate((1, 3, 16, 128, 171), 1))
        path = write(sizes + nested(6, np.ones(100, "<f4").tobytes()))
        self.check(path, r"400 bytes of numbers .* \[1, 3, 16, 128, 171\] needs 4202496")

    def test_blob_of_the_later_caffe_is_an_error(self, write):
        path = write(later_dialect_blob_bytes(np.ones((3, 128, 171)), legacy=True))
        self.check(path, "not a mean .written by a later Caffe .C3D-v1.1 or BVLC")


class TestRealFiles:
    @pytest.fixture
    def train01(self, assets):
        return assets / "mean" / "train01_16_128_171_mean.binaryproto"

    def test_train01_is_recognised_and_has_its_averages(self, train01):
        mean = read_mean(str(train01))
        assert mean.bgr.mean(axis=(0, 1, 2)) == pytest.approx([95.1, 102.9, 107.8], abs=0.06)
        assert mean.file_sha256 == file_sha256(train01)
        assert mean.known_as == UCF101

    def test_train01_is_equal_in_every_format(self, assets, train01, write):
        packed = assets / "mean" / "train01_16_128_171_mean.npy.bz2"
        unpacked = bz2.decompress(packed.read_bytes())
        channels_last = np.load(io.BytesIO(unpacked)).transpose(1, 2, 3, 0)
        files = [write(unpacked, "a.npy"), write(npy(channels_last), "b.npy")]
        means = [read_mean(path) for path in (str(train01), str(packed), *files)]
        assert all(np.array_equal(mean.bgr, means[0].bgr) for mean in means)
        assert len({mean.describe()["sha256"] for mean in means}) == 1
        assert len({mean.file_sha256 for mean in means}) == 4

    def test_mean_of_another_network_is_an_error(self, assets):
        path = str(assets / "mean" / "fb_train16_128_mean.binaryproto")
        with pytest.raises(AssetError, match=r"shape \[1, 3, 16, 128, 128\] fits no C3D clip"):
            read_mean(path)

    def test_truncated_file_is_an_error(self, train01, write):
        with pytest.raises(AssetError, match="ends early"):
            read_mean(write(train01.read_bytes()[:-1]))
