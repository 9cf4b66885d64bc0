"""One set of random arrays in every format in the wild gives the same arrays, bit for bit."""

import os
import pickle
import zipfile

import numpy as np
import pytest
from c3d_export.errors import WeightsError
from c3d_export.weights import npz, read_weights
from support import weight_files as wild
from support.caffe_bytes import later_dialect_net_bytes, net_bytes, random_net


@pytest.fixture(scope="module")
def net():
    return random_net(5, width=1, classes=11)


@pytest.fixture(scope="module")
def canonical(net):
    return wild.canonical(net)


def write_caffe(packing):
    def write(path, net):
        path.write_bytes(net_bytes(net, packing=packing, diff=True))
        return path

    return write


def write_npz(path, net):
    with path.open("wb") as file:
        np.savez(file, **wild.canonical(net))
    return path


def keras2(**style):
    return lambda path, net: wild.write_keras2(path, wild.canonical(net), **style)


def torch_file(style):
    def write(path, net):
        pytest.importorskip("torch", reason="torch is an optional extra: make torch")
        return wild.write_torch(path, net, style=style)

    return write


WRITERS = {
    "caffe": write_caffe("packed"),
    "caffe, numbers in several pieces": write_caffe("split"),
    "keras 2": keras2(),
    "keras 2, second naming": keras2(inner="{layer}_1"),
    "keras 2, whole model": keras2(root="model_weights"),
    "keras 1 on theano": wild.write_keras1_theano,
    "torch": torch_file("plain"),
    "torch, numbered": torch_file("sequential"),
    "lasagne": lambda path, net: wild.write_lasagne(path, net, inputs_first=True),
    "lasagne, as caffe": lambda path, net: wild.write_lasagne(path, net, inputs_first=False),
    "npz": write_npz,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_reader_gives_the_same_arrays_bit_for_bit(tmp_path, net, canonical, name):
    # The name says nothing: files are recognised by their content.
    weights = read_weights(str(WRITERS[name](tmp_path / "weights.bin", net)))
    assert set(weights.arrays) == set(canonical)
    for key, array in canonical.items():
        assert weights.arrays[key].dtype == np.float32
        assert np.array_equal(weights.arrays[key], array), key
    assert weights.classes == 11
    assert not weights.random
    assert weights.source == "weights.bin"


def test_numbers_one_by_one_are_read_too(tmp_path):
    """Unpacked: legal protobuf, though Caffe does not write it. Slow, so on a piece of a file."""
    from c3d_export.blob_proto import read_blob
    from support.caffe_bytes import blob_bytes

    array = np.random.default_rng(0).standard_normal((1, 3, 2, 4, 5)).astype(np.float32)
    for packing in ("packed", "split", "unpacked"):
        assert np.array_equal(read_blob(memoryview(blob_bytes(array, packing=packing))), array)


def test_the_ucf101_net_has_101_classes_and_other_names(tmp_path):
    net = random_net(6, width=1, classes=101, names="ucf101")
    path = tmp_path / "c3d_ucf101_finetune_whole_iter_20000"
    path.write_bytes(net_bytes(net))
    weights = read_weights(str(path))
    assert weights.classes == 101
    assert np.array_equal(weights.arrays["fc8/kernel"], wild.canonical(net)["fc8/kernel"])


def test_mmaction2_brings_features_only(tmp_path, net, canonical):
    weights = read_weights(str(torch_file("mmaction")(tmp_path / "c3d.pth", net)))
    assert weights.classes is None
    assert set(canonical) - set(weights.arrays) == {"fc8/kernel", "fc8/bias"}
    for key, array in weights.arrays.items():
        assert np.array_equal(array, canonical[key]), key


def test_what_is_converted_stays_what_it_was(tmp_path):
    weights = read_weights("random:4", width=1, classes=3)
    npz.write(tmp_path / "weights.npz", weights)
    again = read_weights(str(tmp_path / "weights.npz"))
    assert again.sha256 == weights.sha256
    assert again.random
    assert again.note == weights.note
    assert again.source == "weights.npz from random:4"


class TestRefuses:
    def refused(self, path, words):
        with pytest.raises(WeightsError, match=words) as caught:
            read_weights(str(path))
        assert str(path) in str(caught.value) or path.name in str(caught.value)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("legacy", [False, True])
    def test_a_caffe_file_of_the_later_dialect(self, tmp_path, net, legacy):
        path = tmp_path / "later.caffemodel"
        path.write_bytes(later_dialect_net_bytes(net, legacy=legacy))
        self.refused(path, "written by a later Caffe")

    @pytest.mark.parametrize("name", WRITERS)
    @pytest.mark.parametrize("share", [0.3, 0.9])
    def test_a_file_cut_short(self, tmp_path, net, name, share):
        whole = WRITERS[name](tmp_path / "whole", net).read_bytes()
        path = tmp_path / "cut"
        path.write_bytes(whole[: int(len(whole) * share)])
        self.refused(path, r"damaged|ends early|not a (file|pickle|C3D|weight)|missing")

    def test_a_network_of_2d_convolutions(self, tmp_path, canonical):
        flat = {**canonical, "conv1/kernel": canonical["conv1/kernel"][0]}
        path = tmp_path / "vgg.h5"
        self.refused(wild.write_keras2(path, flat), "2-D convolutions, not C3D")

    def test_a_caffe_layer_that_c3d_has_not(self, tmp_path, net):
        other = {("res2a" if name == "conv2a" else name): blobs for name, blobs in net.items()}
        path = tmp_path / "other.caffemodel"
        path.write_bytes(net_bytes(other))
        self.refused(path, "layer 'res2a' is not one of C3D's")

    @pytest.mark.parametrize("write", [pickle.dumps, lambda o: pickle.dumps(o, protocol=0)])
    def test_a_pickle_that_would_run_something(self, tmp_path, write):
        class Runs:
            def __reduce__(self):
                return os.mkdir, (str(tmp_path / "ran"),)

        path = tmp_path / "c3d_model.pkl"
        path.write_bytes(write([Runs()]))
        self.refused(path, "not a pickle of arrays alone .*mkdir|not a weight file")
        assert not (tmp_path / "ran").exists()

    def test_a_torch_file_that_would_run_something(self, tmp_path):
        torch = pytest.importorskip("torch", reason="torch is an optional extra: make torch")

        class Runs:
            def __reduce__(self):
                return os.mkdir, (str(tmp_path / "ran"),)

        path = tmp_path / "c3d.pickle"
        torch.save({"conv1.weight": Runs()}, path)
        self.refused(path, "not a file of torch tensors alone")
        assert not (tmp_path / "ran").exists()

    def test_a_pickle_of_too_few_arrays(self, tmp_path):
        path = tmp_path / "c3d_model.pkl"
        path.write_bytes(pickle.dumps([np.zeros(3, np.float32)] * 5, protocol=2))
        self.refused(path, "5 arrays, C3D has 22")

    def test_a_keras_file_with_channels_first_on_tensorflow(self, tmp_path, net):
        import h5py

        path = wild.write_keras1_theano(tmp_path / "odd.h5", random_net(1, width=2, classes=3))
        with h5py.File(path, "a") as file:
            file.attrs["backend"] = b"tensorflow"
        self.refused(path, "written by Keras on tensorflow with a kernel of shape")

    def test_a_keras_file_that_claims_more_than_it_holds(self, tmp_path, canonical):
        import h5py

        path = wild.write_keras2(tmp_path / "huge.h5", canonical)
        with h5py.File(path, "a") as file:
            del file["fc6/fc6/kernel:0"]
            # A petabyte by its shape, and nothing on disk.
            file["fc6"].create_dataset("fc6/kernel:0", (10**7, 10**7), "f4", chunks=(100, 100))
        self.refused(path, r"shape \[10000000, 10000000\]; C3D's largest array has 33,554,432")

    def test_an_npz_that_claims_more_than_it_holds(self, tmp_path):
        path = tmp_path / "huge.npz"
        header = "{'descr': '<f4', 'fortran_order': False, 'shape': (10000000, 10000000), }"
        text = header.ljust(117) + "\n"
        with zipfile.ZipFile(path, "w") as archive:
            npy = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()
            archive.writestr("conv1/kernel.npy", npy)
        self.refused(path, "a damaged .npz file")
