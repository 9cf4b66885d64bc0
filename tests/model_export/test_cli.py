"""The command: what it prints, and that what it refuses is one line, exit code 2, nothing left."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from c3d_export import servable
from c3d_export.graph import GraphServable

BUILD = ("build", "--weights", "random:3", "--width", "4", "--batch-sizes", "1")


def write(path, content):
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Built once, by a process of its own, as people do."""
    out = tmp_path_factory.mktemp("models") / "c3d"
    labels = write(out.parent / "labels.txt", "\n".join(f"sport {n}" for n in range(487)))
    command = [sys.executable, "-m", "c3d_export", *BUILD, "--out", str(out)]
    command += ["--labels", str(labels), "--mean", "90,100,110"]
    return out / "1", subprocess.run(command, capture_output=True, text=True, check=False)


class TestBuild:
    def test_prints_the_version_and_what_it_is_made_of(self, built):
        path, process = built
        assert process.returncode == 0, process.stderr
        assert f"{path}: " in process.stdout
        assert "random:3, 20,986,295 parameters, float32, 487 classes" in process.stdout
        assert "mean 90,100,110" in process.stdout
        assert "from the Keras model" in process.stdout

    def test_says_that_nobody_trained_it(self, built):
        _, process = built
        assert "random:3" in process.stdout.splitlines()[-1]
        assert "not a trained network" in process.stdout

    def test_puts_all_of_it_into_the_version(self, built):
        path, _ = built
        with GraphServable(path) as loaded:
            (text,) = loaded.run("model_card", {"n": np.zeros(1, np.int32)})["json"]
        card = json.loads(text)
        assert card["weights"]["source"] == "random:3"
        assert card["weights"]["random"]
        assert card["labels"][:2] == ["sport 0", "sport 1"]
        assert card["mean"]["crop_means_bgr"] == [90.0, 100.0, 110.0]
        assert card["batch_sizes"] == [1]

    def test_gives_what_verify_verifies(self, built, run):
        path, _ = built
        code, out, err = run("verify", path)
        assert (code, err) == (0, "")
        assert out.startswith(f"{path}: verified")
        for signature in ("classify", "fc6_features", "fc7_features", "serving_default"):
            assert signature in out
        assert "4 requests run" in out


class TestBuildRefuses:
    """Each of these before anything is written."""

    @pytest.fixture
    def out(self, tmp_path):
        return ("--out", tmp_path / "models" / "c3d")

    def test_missing_weights(self, refuses, tmp_path, out):
        assert "cannot be read (No such file" in refuses(
            "build", "--weights", tmp_path / "absent.h5", *out
        )

    def test_no_weights_at_all(self, refuses, out):
        assert "--weights" in refuses("build", *out)

    def test_weights_of_no_known_format(self, refuses, tmp_path, out):
        path = write(tmp_path / "weights.h5", "text\n" * 99)
        assert "not a weight file of a known format" in refuses("build", "--weights", path, *out)

    def test_weights_of_a_wrong_shape(self, refuses, tmp_path, out, tiny_weights):
        wrong = {**tiny_weights.arrays, "conv2/kernel": np.zeros((3, 3, 3, 2, 1), np.float32)}
        np.savez(tmp_path / "w.npz", **wrong)
        line = refuses("build", "--weights", tmp_path / "w.npz", *out)
        assert "conv2/kernel has shape [3, 3, 3, 2, 1], expected [3, 3, 3, 1, 2]" in line

    @pytest.mark.parametrize("seed", ["", "x", "-1", "²"])
    def test_a_bad_seed(self, refuses, out, seed):
        assert "the seed must be a whole number" in refuses(
            "build", "--weights", f"random:{seed}", *out
        )

    @pytest.mark.parametrize("width", ["0", "-1", "x"])
    def test_a_bad_width(self, refuses, out, width):
        line = refuses("build", "--weights", "random:0", "--width", width, *out)
        assert "width" in line

    def test_labels_of_a_wrong_count(self, refuses, tmp_path, out):
        labels = write(tmp_path / "labels.txt", "one\ntwo\n")
        line = refuses(*BUILD, "--labels", labels, *out)
        assert "labels.txt: 2 labels, and the network has 487 classes" in line

    def test_missing_labels(self, refuses, tmp_path, out):
        assert "cannot be read" in refuses(*BUILD, "--labels", tmp_path / "absent.txt", *out)

    @pytest.mark.parametrize("mean", ["1,2,x", "1,2", "-1,2,3", "absent.npy"])
    def test_a_bad_mean(self, refuses, out, mean):
        assert mean in refuses(*BUILD, f"--mean={mean}", *out)

    def test_a_mean_file_that_is_none(self, refuses, tmp_path, out):
        path = write(tmp_path / "mean.binaryproto", "no mean")
        assert "not a mean" in refuses(*BUILD, "--mean", path, *out)

    @pytest.mark.parametrize("sizes", ["a,b", "1;8", "1,", ""])
    def test_batch_sizes_that_are_no_numbers(self, refuses, out, sizes):
        line = refuses(*BUILD[:5], "--batch-sizes", sizes, *out)
        assert "give whole numbers like 1,8,32" in line

    @pytest.mark.parametrize("sizes", ["0", "8,1", "1,1"])
    def test_batch_sizes_that_do_not_ascend_from_one(self, refuses, out, sizes):
        line = refuses(*BUILD[:5], "--batch-sizes", sizes, *out)
        assert "give ascending numbers of 1 or more" in line

    def test_an_unknown_precision(self, refuses, out):
        line = refuses(*BUILD, "--precision", "nope", *out)
        assert "'nope' is not one of 'float32', 'bfloat16', 'float16'" in line

    def test_a_file_in_the_way(self, refuses, tmp_path):
        write(tmp_path / "c3d", "mine")
        assert "c3d: cannot be written" in refuses(*BUILD, "--out", tmp_path / "c3d")

    def test_a_file_in_the_way_above(self, refuses, tmp_path):
        write(tmp_path / "models", "mine")
        assert "cannot be written" in refuses(*BUILD, "--out", tmp_path / "models" / "c3d")


def test_an_interrupted_build_is_one_line_and_leaves_no_version(run, tmp_path, monkeypatch):
    def interrupted(*_args, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr(servable, "verify", interrupted)
    code, out, err = run(*BUILD, "--out", tmp_path / "c3d")
    assert (code, out) == (130, "")
    # Click ends the line that shows ^C first.
    assert err.strip() == "c3d-export: interrupted; nothing half-made has a final name"
    assert [path for path in tmp_path.rglob("*") if path.name != "c3d"] == []


class TestVerifyRefuses:
    def test_a_missing_folder(self, refuses, tmp_path):
        line = refuses("verify", tmp_path / "absent")
        assert "no SavedModel there" in line
        assert "models/c3d/1" in line

    def test_a_damaged_version(self, refuses, tiny_base, tmp_path):
        version = shutil.copytree(tiny_base / "1", tmp_path / "1")
        (version / "variables" / "variables.data-00000-of-00001").write_bytes(b"short")
        assert "cannot be loaded" in refuses("verify", version)


class TestServeRefuses:
    def test_a_folder_without_versions(self, refuses, tmp_path):
        assert "no model version there" in refuses("serve", tmp_path)

    def test_a_port_in_use(self, refuses, tiny_base, narrow_server):
        line = refuses("serve", tiny_base, "--port", narrow_server.port)
        assert f"port {narrow_server.port} on localhost cannot be listened at" in line
        assert "choose another with --port" in line

    @pytest.mark.parametrize("port", ["-1", "65536", "http"])
    def test_what_is_no_port(self, refuses, tiny_base, port):
        assert "--port" in refuses("serve", tiny_base, "--port", port)


def test_build_warns_where_ucf101s_mean_meets_sports_1m_weights(run, tmp_path, assets):
    mean = assets / "mean" / "train01_16_128_171_mean.binaryproto"
    code, out, _ = run(*BUILD, "--mean", mean, "--out", tmp_path / "c3d")
    assert code == 0
    assert "warning: train01_16_128_171_mean.binaryproto is the UCF101 mean" in out


@pytest.mark.parametrize("command", ["build", "verify", "serve", "convert", "inspect", "fetch"])
def test_help_is_there_for_every_command(run, command):
    code, out, err = run(command, "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"Usage: c3d-export {command} ")


def test_an_unknown_command_is_refused(refuses):
    assert "No such command 'train'" in refuses("train")
