"""One set of random arrays, written in every published format, is read bit for bit the same."""

import gzip
import io
import os
import pickle
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from c3d_export.errors import AssetError, WeightsError
from c3d_export.labels import read_labels
from c3d_export.mean import read_mean
from c3d_export.weights import npz, random_weights, read_weights
from c3d_export.weights.caffe import read_blob
from support import weight_files
from support.caffe_bytes import blob_bytes, later_dialect_net_bytes, net_bytes, random_net
from support.tensorflow_files import port_arrays, write_checkpoint


@pytest.fixture(scope="module")
def net():
    return random_net(5, width=1, classes=11)


@pytest.fixture(scope="module")
def canonical(net):
    return weight_files.canonical(net)


def write_caffe(packing):
    def write(path, net):
        path.write_bytes(net_bytes(net, packing=packing, diff=True))
        return path

    return write


def write_npz(path, net):
    with path.open("wb") as file:
        np.savez(file, **weight_files.canonical(net))
    return path


def keras2(**style):
    return lambda path, net: weight_files.write_keras2(path, weight_files.canonical(net), **style)


def torch_file(style):
    def write(path, net):
        pytest.importorskip("torch", reason="torch is an optional extra: make torch")
        return weight_files.write_torch(path, net, style=style)

    return write


def lasagne(*, inputs_first):
    return lambda path, net: weight_files.write_lasagne(path, net, inputs_first=inputs_first)


def checkpoint(version, rows):
    def write(path, net):
        arrays = port_arrays(net, rows=rows)
        return write_checkpoint(path, {f"c3d/{k}": a for k, a in arrays.items()}, version=version)

    return write


WRITERS = {
    "caffe": write_caffe("packed"),
    "caffe, numbers in several pieces": write_caffe("split"),
    "keras 2": keras2(),
    "keras 2, second naming": keras2(inner="{layer}_1"),
    "keras 2, whole model": keras2(root="model_weights"),
    "keras 1 on theano": weight_files.write_keras1_theano,
    "torch": torch_file("plain"),
    "torch, numbered": torch_file("sequential"),
    "lasagne": lasagne(inputs_first=True),
    "lasagne, as caffe": lasagne(inputs_first=False),
    "npz": write_npz,
    "tensorflow v1": checkpoint("V1", "chw"),
    "tensorflow v2": checkpoint("V2", "hwc"),
}
# What a format does not record.
ORDERS = {
    "tensorflow v1": {"channels": "bgr", "fc6_rows": "chw"},
    "tensorflow v2": {"channels": "bgr", "fc6_rows": "hwc"},
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.long] if name in ORDERS else []) for name in WRITERS],
)
def test_file_of_every_writer_has_the_same_arrays(tmp_path, net, canonical, name):
    # The file's name has no meaning: the content decides the format.
    path = WRITERS[name](tmp_path / "weights.bin", net)
    orders = ORDERS.get(name, {})
    weights = read_weights(str(path), **orders)
    assert set(weights.arrays) == set(canonical)
    for key, array in canonical.items():
        assert weights.arrays[key].dtype == np.float32
        assert np.array_equal(weights.arrays[key], array), key
    assert weights.classes == 11
    assert not weights.random
    assert weights.source == "weights.bin"
    content = path.read_bytes()
    for share in (0.3, 0.9):
        path.write_bytes(content[: int(len(content) * share)])
        expected = r"damaged|ends early|not a (file|pickle|C3D|weight|TensorFlow)|missing"
        check_error(path, expected, **orders)


def test_blob_is_read_in_every_packing():
    """Unpacked numbers are legal protobuf, though Caffe does not write them."""
    array = np.random.default_rng(0).standard_normal((1, 3, 2, 4, 5)).astype(np.float32)
    for packing in ("packed", "split", "unpacked"):
        blob = read_blob(memoryview(blob_bytes(array, packing=packing)))
        assert np.array_equal(blob, array), packing


def test_ucf101_net_has_101_classes_and_other_layer_names(tmp_path):
    net = random_net(6, width=1, classes=101, names="ucf101")
    path = tmp_path / "c3d_ucf101_finetune_whole_iter_20000"
    path.write_bytes(net_bytes(net))
    weights = read_weights(str(path))
    assert weights.classes == 101
    assert np.array_equal(weights.arrays["fc8/kernel"], weight_files.canonical(net)["fc8/kernel"])


def test_mmaction2s_file_has_features_only(tmp_path, net, canonical):
    weights = read_weights(str(torch_file("mmaction")(tmp_path / "c3d.pth", net)))
    assert weights.classes is None
    assert set(canonical) - set(weights.arrays) == {"fc8/kernel", "fc8/bias"}
    for key, array in weights.arrays.items():
        assert np.array_equal(array, canonical[key]), key


def test_converted_weights_keep_their_source_and_note(tmp_path):
    weights = random_weights(4, width=1, classes=3)
    npz.write(tmp_path / "weights.npz", weights)
    converted = read_weights(str(tmp_path / "weights.npz"))
    assert converted.sha256 == weights.sha256
    assert converted.random
    assert converted.note == weights.note
    assert converted.source == "weights.npz from random:4"


def check_error(path, match, **orders):
    with pytest.raises(WeightsError, match=match) as caught:
        read_weights(str(path), **orders)
    assert path.name.removesuffix(".index") in str(caught.value)
    assert "\n" not in str(caught.value)


PAGE = b"\n<!DOCTYPE html><html><title>Google Drive - Virus scan warning</title></html>"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 320000000\n"


def zip_bytes():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("c3d.caffemodel", b"content")
    return file.getvalue()


class TestOtherFiles:
    """Files that are named for what they are, whatever their names."""

    @pytest.mark.parametrize("name", ["weights.h5", "weights.caffemodel", "c3d.pickle", "weights"])
    def test_weights(self, tmp_path, name):
        for content, words in (
            (LFS, "not a weight file of a known format: it is a git-lfs pointer; run `git lfs"),
            (PAGE, r'it is an HTML page \("Google Drive - Virus scan warning"\); open its address'),
            (PAGE.strip(), "it is an HTML page"),
            (zip_bytes(), "it is a zip archive; unpack it"),
            (gzip.compress(b"weights"), "it is a gzip archive; unpack it"),
            (b"<Error><Code>AccessDenied</Code></Error>", r"error of a store .*\(AccessDenied\)"),
            (b'name: "C3D"\nlayers { }\n', "it is text; give the weight file itself"),
            (bytes(5000), "it is a file that begins with 5,000 zero bytes"),
            (b"", r"it is empty \(0 bytes\); download it again"),
            (b"\x93NUMPY\x01\0" + bytes(99), "it is a NumPy array"),
        ):
            (tmp_path / name).write_bytes(content)
            check_error(tmp_path / name, words)

    def test_folder(self, tmp_path):
        check_error(tmp_path, "it is a folder; give the weight file in it")
        (tmp_path / "saved_model.pb").touch()
        check_error(tmp_path, "it is the folder of a SavedModel; give the weights")

    def test_mean(self, tmp_path):
        path = tmp_path / "mean.binaryproto"
        for content, words in (
            (LFS, "not a mean: it is a git-lfs pointer"),
            (PAGE, "not a mean: it is an HTML page"),
            (zip_bytes(), "not a mean: it is a zip archive"),
            (bytes(99), "it is a file that begins with 99 zero bytes"),
        ):
            path.write_bytes(content)
            with pytest.raises(AssetError, match=words):
                read_mean(str(path))
        with pytest.raises(AssetError, match="it is a folder; give the mean in it"):
            read_mean(str(tmp_path))

    def test_labels(self, tmp_path):
        path = tmp_path / "labels.txt"
        for content, words in (
            (LFS, "it is a git-lfs pointer"),
            (PAGE, "it is an HTML page"),
            (zip_bytes(), "it is a zip archive"),
            (b"tennis\nbasketball\n", "2 labels, and the network has 487 classes"),
            (b"tennis\n\nbasketball\n", "line 2 is empty"),
        ):
            path.write_bytes(content)
            with pytest.raises(AssetError, match=words) as caught:
                read_labels(path, classes=487)
            assert "\n" not in str(caught.value)
        with pytest.raises(AssetError, match="it is a folder; give the labels file in it"):
            read_labels(tmp_path, classes=487)
        # Odd names of classes are labels, as long as there are as many as classes.
        path.write_bytes(b"#!shout\n<html>\n")
        assert read_labels(path, classes=2) == ["#!shout", "<html>"]


class RunsCode:
    """An object whose unpickling creates a folder."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


class TestErrors:
    def test_caffe_file_of_the_later_dialect_is_an_error(self, tmp_path, net):
        path = tmp_path / "later.caffemodel"
        for legacy in (False, True):
            path.write_bytes(later_dialect_net_bytes(net, legacy=legacy))
            check_error(path, "written by a later Caffe")

    def test_network_of_2d_convolutions_is_an_error(self, tmp_path, canonical):
        flat = {**canonical, "conv1/kernel": canonical["conv1/kernel"][0]}
        path = weight_files.write_keras2(tmp_path / "vgg.h5", flat)
        check_error(path, "2-D convolutions, not C3D")

    def test_caffe_layer_of_another_network_is_an_error(self, tmp_path, net):
        other = {("res2a" if name == "conv2a" else name): blobs for name, blobs in net.items()}
        path = tmp_path / "other.caffemodel"
        path.write_bytes(net_bytes(other))
        check_error(path, "layer 'res2a' is not one of C3D's")

    def test_pickle_with_code_is_not_run(self, tmp_path):
        path = tmp_path / "c3d_model.pkl"
        for protocol in (pickle.DEFAULT_PROTOCOL, 0):
            path.write_bytes(pickle.dumps([RunsCode(tmp_path / "ran")], protocol=protocol))
            check_error(path, "not a pickle of arrays alone .*mkdir|not a weight file")
            assert not (tmp_path / "ran").exists()

    def test_torch_file_with_code_is_not_run(self, tmp_path):
        torch = pytest.importorskip("torch", reason="torch is an optional extra: make torch")
        path = tmp_path / "c3d.pickle"
        torch.save({"conv1.weight": RunsCode(tmp_path / "ran")}, path)
        check_error(path, "not a file of torch tensors alone")
        assert not (tmp_path / "ran").exists()

    def test_pickle_with_too_few_arrays_is_an_error(self, tmp_path):
        path = tmp_path / "c3d_model.pkl"
        path.write_bytes(pickle.dumps([np.zeros(3, np.float32)] * 5, protocol=2))
        check_error(path, "5 arrays, C3D has 22")

    def test_keras_file_on_tensorflow_with_channels_first_is_an_error(self, tmp_path):
        net = random_net(1, width=2, classes=3)
        path = weight_files.write_keras1_theano(tmp_path / "odd.h5", net)
        with h5py.File(path, "a") as file:
            file.attrs["backend"] = b"tensorflow"
        check_error(path, "written by Keras on tensorflow with a kernel of shape")

    def test_keras_file_that_claims_a_petabyte_is_an_error(self, tmp_path, canonical):
        path = weight_files.write_keras2(tmp_path / "huge.h5", canonical)
        with h5py.File(path, "a") as file:
            del file["fc6/fc6/kernel:0"]
            # A shape without data on disk.
            file["fc6"].create_dataset("fc6/kernel:0", (10**7, 10**7), "f4", chunks=(100, 100))
        check_error(path, r"shape \[10000000, 10000000\]; C3D's largest array has 33,554,432")

    def test_npz_that_claims_more_than_memory_is_an_error(self, tmp_path):
        path = tmp_path / "huge.npz"
        header = "{'descr': '<f4', 'fortran_order': False, 'shape': (10000000, 10000000), }"
        text = header.ljust(117) + "\n"
        with zipfile.ZipFile(path, "w") as archive:
            npy = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()
            archive.writestr("conv1/kernel.npy", npy)
        check_error(path, "a damaged .npz file")

    def test_npz_with_an_odd_origin_or_entry_is_an_error(self, tmp_path, net):
        path = write_npz(tmp_path / "odd.npz", net)
        whole = path.read_bytes()
        for origin in ("[1]", "3", '"x"', '{"source": "x", "labels": 3}'):
            path.write_bytes(whole)
            with zipfile.ZipFile(path, "a") as archive, archive.open("origin.npy", "w") as entry:
                np.save(entry, np.array(origin))
            check_error(path, "a damaged .npz file")
        with zipfile.ZipFile(path, "w") as archive:
            for key in weight_files.canonical(net):
                archive.writestr(f"{key}.npy", b"no array")
        check_error(path, "conv1/kernel has shape")

    def test_pipe_is_an_error(self):
        """Of ``--weights <(gunzip -c model.gz)``."""
        reader, writer = os.pipe()
        os.write(writer, b"\x0a\x02C3D")
        os.close(writer)
        try:
            check_error(Path(f"/dev/fd/{reader}"), "a pipe or a device; give a file")
        finally:
            os.close(reader)

    def test_theano_kernel_of_another_rank_is_an_error(self, tmp_path, net):
        for shape in ((4,), (4, 4, 3, 3)):
            path = weight_files.write_keras1_theano(tmp_path / "odd.h5", net)
            with h5py.File(path, "a") as file:
                del file["conv2/conv2_W"]
                file["conv2/conv2_W"] = np.zeros(shape, np.float32)
            check_error(path, "a damaged HDF5 file")

    def test_pickle_of_other_arrays_is_an_error(self, tmp_path):
        path = tmp_path / "c3d_model.pkl"
        cases = (
            ([np.array(["text"])] * 22, "conv1 has arrays of <U4 and <U4, expected float32"),
            ([np.array([None])] * 22, "conv1 has arrays of object and object, expected float32"),
        )
        for arrays, expected in cases:
            path.write_bytes(pickle.dumps(arrays, protocol=2))
            check_error(path, expected)
        path.write_bytes(pickle.dumps([np.zeros((), np.float32)] * 22, protocol=2))
        with pytest.raises(WeightsError, match=r"a convolution kernel of shape \[\]"):
            read_weights(str(path))
        # An unknown encoding is a LookupError.
        path.write_bytes(b"\x80\x02c_codecs\nencode\nX\x01\0\0\0xX\x03\0\0\0odd\x86R.")
        check_error(path, "not a pickle of arrays alone")

    def test_npy_mean_that_claims_more_than_memory_is_an_error(self, tmp_path):
        path = tmp_path / "mean.npy"
        np.save(path, np.zeros(1, np.float32))
        header = path.read_bytes().replace(b"(1,), }" + b" " * 15, b"(1000000000000000,), }")
        path.write_bytes(header)
        with pytest.raises(AssetError, match="a damaged .npy file"):
            read_mean(str(path))
