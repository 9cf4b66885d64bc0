"""The command: its output; errors are one line with exit code 2 and leave no file."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from c3d_export import servable
from c3d_export.card import stored_card
from c3d_export.graph import GraphServable
from c3d_export.weights.canonical import LAYERS
from model_export.test_store import RANDOM, TRAINED, make_version
from support.cgroups import limited
from support.processes import LONG_S, wait_until

C3D_EXPORT = (sys.executable, "-m", "c3d_export")
# The command, which does not come to an end of a verification.
UNVERIFIED = """
import sys, threading
from c3d_export import servable
from c3d_export.cli import main
servable.verify = lambda *arguments, **options: threading.Event().wait()
main(sys.argv[1:])
"""
BUILD = ("build", "--weights", "random:3", "--width", "4", "--batch-sizes", "1")


def write(path, content):
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A version that the command built in a process without any setting for TensorFlow."""
    out = tmp_path_factory.mktemp("models") / "c3d"
    labels = write(out.parent / "labels.txt", "\n".join(f"sport {n}" for n in range(487)))
    command = [*C3D_EXPORT, *BUILD, "--out", str(out)]
    command += ["--labels", str(labels), "--mean", "90,100,110"]
    environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    process = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    return out / "1", process


class TestBuild:
    def test_output_names_the_version_and_its_inputs(self, built):
        path, process = built
        assert process.returncode == 0, process.stderr
        assert process.stdout.startswith(f"{path}: ")
        assert "random:3, 20,986,295 parameters, float32, 487 classes" in process.stdout
        assert "mean 90,100,110" in process.stdout
        assert "from the Keras model" in process.stdout

    def test_tensorflows_start_up_lines_are_not_shown(self, built):
        _, process = built
        assert process.stderr == ""

    def test_output_ends_with_the_weights_note(self, built):
        _, process = built
        assert "random:3" in process.stdout.splitlines()[-1]
        assert "not a trained network" in process.stdout

    def test_model_card_has_the_inputs(self, built):
        path, _ = built
        with GraphServable(path) as loaded:
            (text,) = loaded.run("model_card", {"n": np.zeros(1, np.int32)})["json"]
        card = json.loads(text)
        assert card["weights"]["source"] == "random:3"
        assert card["weights"]["random"]
        assert card["labels"][:2] == ["sport 0", "sport 1"]
        assert card["mean"]["crop_means_bgr"] == [90.0, 100.0, 110.0]
        assert card["batch_sizes"] == [1]

    @pytest.mark.long
    def test_built_version_can_be_verified(self, built, run):
        path, _ = built
        code, out, err = run("verify", path)
        assert (code, err) == (0, "")
        assert out.startswith(f"{path}: verified")
        for name in ("classify", "fc6_features", "fc7_features", "layers", "serving_default"):
            assert name in out
        assert "9 requests run" in out

    @pytest.mark.long
    def test_ucf101s_mean_with_sports_1m_weights_is_a_warning(self, run, tmp_path, assets):
        mean = assets / "mean" / "train01_16_128_171_mean.binaryproto"
        code, out, _ = run(*BUILD, "--mean", mean, "--out", tmp_path / "c3d")
        assert code == 0
        assert "warning: train01_16_128_171_mean.binaryproto is the UCF101 mean" in out


class TestStandardError:
    @pytest.mark.long
    def test_only_tensorflows_start_up_lines_are_dropped(self, tmp_path):
        """Lines that other code writes to the file descriptor, and crashes, stay visible."""
        program = (
            "import os, sys, tensorflow as tf\n"
            "from c3d_export import graph\n"
            "os.write(2, b'before\\n')\n"
            "session_run = tf.compat.v1.Session.run\n"
            "def run(*args):\n"
            "    os.write(2, b'an error during the first run\\n')\n"
            "    return session_run(*args)\n"
            "tf.compat.v1.Session.run = run\n"
            "graph._drop_startup_lines()\n"
            "os.write(2, b'after\\n')\n"
            "os.abort()\n"
        )
        process = subprocess.run(
            [sys.executable, "-X", "faulthandler", "-c", program],
            capture_output=True,
            text=True,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
            check=False,
        )
        assert process.returncode == -signal.SIGABRT
        lines = process.stderr.splitlines()
        assert lines[:3] == ["before", "an error during the first run", "after"]
        assert "Fatal Python error: Aborted" in process.stderr
        assert "MLIR" not in process.stderr


@pytest.mark.faults
class TestInterruptedBuild:
    def test_ctrl_c_is_one_line_and_leaves_no_version(self, run, tmp_path, monkeypatch):
        def interrupt(*_args, **_options):
            raise KeyboardInterrupt

        monkeypatch.setattr(servable, "verify", interrupt)
        code, out, err = run(*BUILD, "--out", tmp_path / "c3d")
        assert (code, out) == (130, "")
        # Click first ends the terminal's line, which shows ^C.
        assert err.strip() == "c3d-export: interrupted; no incomplete file or version is left"
        assert [path for path in tmp_path.rglob("*") if path.name != "c3d"] == []

    def test_sigterm_ends_with_143_and_leaves_no_unfinished_version(self, tmp_path):
        base = tmp_path / "c3d"
        with subprocess.Popen(
            [sys.executable, "-c", UNVERIFIED, *BUILD, "--out", str(base)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                wait_until(lambda: list(base.glob(".building-*/*")) or process.poll() is not None)
                assert process.poll() is None
                process.send_signal(signal.SIGTERM)
                out, err = process.communicate(timeout=LONG_S)
            finally:
                process.kill()
        assert process.returncode == 143
        assert out == ""
        assert err.strip() == "c3d-export: interrupted; no incomplete file or version is left"
        assert not base.exists()


@pytest.mark.long
class TestOverTrained:
    """Demo and random weights do not become the newest version where a version is trained."""

    @pytest.fixture
    def base(self, tmp_path):
        """A model's folder with a version of trained weights, between two others."""
        base = tmp_path / "c3d"
        for weights in (RANDOM, TRAINED, RANDOM):
            make_version(base, "of another build", weights=weights)
        return base

    def test_build_and_publish_are_refused(self, refused, base, tmp_path):
        for weights in ("demo", "random:3"):
            line = refused("build", "--weights", weights, "--out", base)
            assert f"{weights} is not published: {base}/2 has trained weights (mine.h5)" in line
        built = make_version(tmp_path / "built", "another")
        assert f"{base}/2 has trained weights" in refused("publish", built, "--to", base)

    def test_job_that_is_repeated_ends_with_one_line_and_without_an_error(
        self, run, base, tmp_path
    ):
        options = ("--precision", "float16", "--unless-in", base)
        for out in (base, tmp_path / "built"):
            code, output, err = run(*BUILD, *options, "--out", out)
            assert (code, err) == (0, ""), out
            assert output.startswith(f"random:3 is not published: {base}/2 has trained weights")
            assert output.count("\n") == 1
        assert sorted(entry.name for entry in base.iterdir()) == ["1", "2", "3"]
        assert not (tmp_path / "built").exists()

    def test_version_whose_card_cannot_be_read_is_named(self, refused, base):
        (base / "2" / "saved_model.pb").write_bytes(b"damaged")
        line = refused(*BUILD, "--out", base)
        assert f"{base}/2 counts as trained, because its model card is not readable" in line

    def test_random_weights_from_a_file_are_refused_too(self, run, refused, base, tmp_path):
        run("convert", "random:3", tmp_path / "weights.npz")
        line = refused("build", "--weights", tmp_path / "weights.npz", "--out", base)
        assert "weights.npz from random:3 is not published" in line

    def test_option_builds_them_all_the_same(self, run, base):
        code, out, _ = run(*BUILD, "--out", base, "--over-trained")
        assert (code, out.split(":")[0]) == (0, f"{base}/4")

    def test_trained_version_that_appears_during_the_build_is_seen(
        self, run, tmp_path, monkeypatch
    ):
        base, verify = tmp_path / "c3d", servable.verify

        def verify_after_another_job(*arguments, **options):
            make_version(base, "of another job", weights=TRAINED)
            return verify(*arguments, **options)

        monkeypatch.setattr(servable, "verify", verify_after_another_job)
        code, out, err = run(*BUILD, "--out", base)
        assert (code, out) == (2, "")
        assert "c3d/1 has trained weights (mine.h5)" in err
        assert [entry.name for entry in base.iterdir()] == ["1"]

    def test_trained_weights_are_built(self, base, tiny_weights, make_spec):
        trained = replace(tiny_weights, random=False, note="", source="mine.npz")
        spec = make_spec(trained, precision="bfloat16")
        version, _ = servable.build(spec, base, elsewhere=True)
        assert version == base / "4"
        assert not stored_card(version)["weights"]["random"]


class TestBuildErrors:
    """Each error is found before anything is written."""

    @pytest.fixture
    def out(self, tmp_path):
        return ("--out", tmp_path / "models" / "c3d")

    def test_weights_that_cannot_be_read_are_an_error(self, refused, tmp_path, out, tiny_weights):
        line = refused("build", "--weights", tmp_path / "absent.h5", *out)
        assert "cannot be read (No such file" in line
        assert "--weights" in refused("build", *out)
        path = write(tmp_path / "weights.h5", "text\n" * 99)
        assert "not a weight file of a known format" in refused("build", "--weights", path, *out)
        wrong = {**tiny_weights.arrays, "conv2/kernel": np.zeros((3, 3, 3, 2, 1), np.float32)}
        np.savez(tmp_path / "w.npz", **wrong)
        line = refused("build", "--weights", tmp_path / "w.npz", *out)
        assert "conv2/kernel has shape [3, 3, 3, 2, 1], expected [3, 3, 3, 1, 2]" in line

    def test_input_that_is_missing_is_named_with_what_is_there(self, refused, tmp_path, out):
        (tmp_path / "mine.h5").write_text("")
        for option in ("--weights", "--mean", "--labels"):
            given = ("build", *out) if option == "--weights" else (*BUILD, *out)
            line = refused(*given, option, tmp_path / "other.h5")
            assert f"{tmp_path}/other.h5: cannot be read (No such file or directory): " in line
            assert f"{tmp_path} has mine.h5; put the file there, or fetch a published one" in line
        line = refused("inspect", tmp_path / "none" / "other.h5")
        assert "its folder neither (No such file or directory)" in line

    def test_seed_or_width_that_is_no_number_is_an_error(self, refused, out):
        for seed in ("", "x", "-1", "²"):
            line = refused("build", "--weights", f"random:{seed}", *out)
            assert "the seed must be a whole number" in line, seed
        for width in ("0", "-1", "x"):
            line = refused("build", "--weights", "random:0", "--width", width, *out)
            assert "width" in line, width

    def test_demo_of_another_width_is_an_error(self, refused, out):
        line = refused("build", "--weights", "demo", "--width", "4", *out)
        assert "demo: width is 4; its last layer is fitted for 64 alone" in line

    def test_labels_that_do_not_fit_are_an_error(self, refused, tmp_path, out):
        labels = write(tmp_path / "labels.txt", "one\ntwo\n")
        line = refused(*BUILD, "--labels", labels, *out)
        assert "labels.txt: 2 labels, and the network has 487 classes" in line
        assert "cannot be read" in refused(*BUILD, "--labels", tmp_path / "absent.txt", *out)

    def test_mean_that_cannot_be_used_is_an_error(self, refused, tmp_path, out):
        for mean in ("1,2,x", "1,2", "-1,2,3", "absent.npy"):
            assert mean in refused(*BUILD, f"--mean={mean}", *out)
        path = write(tmp_path / "mean.binaryproto", "no mean")
        assert "not a mean" in refused(*BUILD, "--mean", path, *out)

    def test_batch_sizes_that_are_no_ascending_numbers_are_an_error(self, refused, out):
        for sizes in ("a,b", "1;8", "1,", ""):
            line = refused(*BUILD[:5], "--batch-sizes", sizes, *out)
            assert "give whole numbers like 1,8,32" in line, sizes
        for sizes in ("0", "8,1", "1,1"):
            line = refused(*BUILD[:5], "--batch-sizes", sizes, *out)
            assert "give ascending numbers of 1 or more" in line, sizes

    def test_unknown_precision_is_an_error(self, refused, out):
        line = refused(*BUILD, "--precision", "nope", *out)
        assert "'nope' is not one of 'float32', 'bfloat16', 'float16'" in line

    def test_file_with_the_folders_name_is_an_error(self, refused, tmp_path):
        write(tmp_path / "c3d", "mine")
        expected = "c3d: the model's folder cannot be read (Not a directory)"
        assert expected in refused(*BUILD, "--out", tmp_path / "c3d")
        write(tmp_path / "models", "mine")
        assert expected in refused(*BUILD, "--out", tmp_path / "models" / "c3d")


class TestVerifyErrors:
    def test_missing_folder_is_an_error(self, refused, tmp_path):
        line = refused("verify", tmp_path / "absent")
        assert "no SavedModel there" in line
        assert "models/c3d/1" in line

    def test_damaged_version_is_an_error(self, refused, tiny_base, tmp_path):
        version = shutil.copytree(tiny_base / "1", tmp_path / "1")
        (version / "variables" / "variables.data-00000-of-00001").write_bytes(b"short")
        assert "cannot be loaded" in refused("verify", version)


class TestServeErrors:
    def test_folder_without_versions_is_an_error(self, refused, tmp_path):
        assert "no model version there" in refused("serve", tmp_path)

    def test_port_in_use_is_an_error(self, refused, tiny_base, narrow_server):
        line = refused("serve", tiny_base, "--port", narrow_server.port)
        assert f"port {narrow_server.port} on localhost cannot be listened at" in line
        assert "choose another with --port" in line

    def test_invalid_port_is_an_error(self, refused, tiny_base):
        for port in ("-1", "65536", "http"):
            assert "--port" in refused("serve", tiny_base, "--port", port), port


class TestConvertAndInspect:
    @pytest.mark.long
    def test_converted_random_weights_are_still_marked_as_random(self, run, tmp_path):
        path = tmp_path / "weights.npz"
        code, out, err = run("convert", "random:3", path)
        assert (code, err) == (0, "")
        assert f"{path}: 79,991,015 parameters from random:3" in out
        code, out, err = run("inspect", path)
        assert (code, err) == (0, "")
        lines = [" ".join(line.split()) for line in out.splitlines()]
        assert lines[0] == "weights.npz from random:3: npz"
        assert "parameters 79,991,015" in lines
        assert "classes 487" in lines
        assert "channels BGR" in lines
        assert "note not a trained network: labels and features mean nothing" in lines
        assert [line.split()[0] for line in lines if "/kernel [" in line] == [
            f"{layer}/kernel" for layer in LAYERS
        ]

    def test_missing_fc8_is_reported(self, run, tmp_path, narrow_weights):
        arrays = {k: a for k, a in narrow_weights.arrays.items() if not k.startswith("fc8/")}
        np.savez(tmp_path / "features.npz", **arrays)
        code, out, _ = run("inspect", tmp_path / "features.npz")
        assert code == 0
        assert "none: fc8 is missing, so features only" in out

    def test_other_files_are_refused(self, refused, tmp_path):
        path = write(tmp_path / "notes.txt", "no weights\n")
        assert "not a weight file of a known format" in refused("inspect", path)
        assert "not a weight file" in refused("convert", path, tmp_path / "out.npz")

    def test_convert_that_cannot_write_leaves_no_file(self, refused, tmp_path, tiny_weights):
        source = tmp_path / "in.npz"
        np.savez(source, **tiny_weights.arrays)
        (tmp_path / "out.npz").mkdir()
        assert "cannot be written" in refused("convert", source, tmp_path / "out.npz")


def test_every_command_has_help(run):
    for command in ("build", "verify", "publish", "serve", "convert", "inspect", "fetch"):
        code, out, err = run(command, "--help")
        assert (code, err) == (0, ""), command
        assert out.startswith(f"Usage: c3d-export {command} ")


def test_unknown_command_is_refused(refused):
    assert "No such command 'train'" in refused("train")


THREADS = """
import json, os
from c3d_export.cli import main
names = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
for name in names:
    os.environ.pop(name, None)  # set by a test that called main() in its own process
try:
    main(["--version"])
except SystemExit:
    print(json.dumps([os.environ[name] for name in names]))
"""


ONEDNN = """
import os, sys
from c3d_export.cli import main
assert "tensorflow" not in sys.modules  # it reads the variable when it is loaded
try:
    main(["--version"])
except SystemExit:
    print(os.environ["TF_ENABLE_ONEDNN_OPTS"])
"""


def test_tensorflow_uses_onednn_unless_the_user_turns_it_off():
    others = {key: value for key, value in os.environ.items() if key != "TF_ENABLE_ONEDNN_OPTS"}
    for own, used in (({}, "1"), ({"TF_ENABLE_ONEDNN_OPTS": "0"}, "0")):
        command = [sys.executable, "-c", ONEDNN]
        output = subprocess.run(command, env={**others, **own}, capture_output=True, check=True)
        assert output.stdout.split()[-1].decode() == used, own


def test_tensorflow_has_the_threads_of_the_cpu_limit():
    with limited(cpus=0.5) as group:
        assert json.loads(group.run(THREADS).splitlines()[-1]) == ["1", "1"]
