"""The command where it can do nothing: servers that cannot help, bad arguments, and its help."""

import subprocess
import sys
from importlib.metadata import version

import pytest
from c3d_client import cli
from support.fake_serving import model_card, signature_defs


@pytest.mark.parametrize("command", ["extract", "classify", "status"])
class TestServersThatCannotHelp:
    @pytest.fixture
    def ends(self, run, film, tmp_path, command):
        """The command ends with 2, one line, and nothing written; gives the line."""

        def check(*options):
            videos = [] if command == "status" else [film]
            out = ["--out", tmp_path / "out"] if command == "extract" else []
            code, _, errors = run(command, *videos, *out, *options)
            assert code == 2
            assert len(errors) == 1
            assert errors[0].startswith("c3d: ")
            assert not list(tmp_path.rglob("*.npz"))
            return errors[0]

        return check

    def test_because_nobody_listens(self, ends, nobody):
        assert "no server answers" in ends("--server", nobody)

    def test_because_they_lack_the_model(self, ends, narrow_server):
        line = ends("--server", narrow_server.target, "--model", "other")
        assert "does not have model 'other'" in line

    def test_because_they_lack_the_version(self, ends, narrow_server):
        line = ends("--server", narrow_server.target, "--model-version", 7)
        assert "does not have model 'c3d' version 7" in line

    def test_because_their_model_has_another_contract(self, ends, fake_serving):
        line = ends("--server", fake_serving(card=model_card(contract_version="2")).target)
        assert "its contract version is '2', this client's is '1'" in line

    def test_because_their_model_is_another(self, ends, fake_serving):
        signatures = signature_defs()
        del signatures["fc6_features"]
        line = ends("--server", fake_serving(signatures=signatures).target)
        assert "has no signature 'fc6_features'" in line

    @pytest.mark.parametrize(
        ("option", "value"),
        [
            ("--server", "http://localhost:8501"),
            ("--timeout", "0"),
            ("--timeout", "inf"),
            ("--timeout", "soon"),
            ("--model-version", "99999999999999999999"),
            ("--frobnicate", "1"),
            ("--ca", "absent.pem"),
            ("--cert", "absent.pem"),
            ("--token-file", "absent"),
            ("--retries", "-1"),
        ],
    )
    def test_because_of_a_bad_option(self, ends, option, value):
        ends(option, value)


class TestArguments:
    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (("extract", "--batch-size", "0"), "batch_size is 0; give 1 to 32"),
            (("extract", "--batch-size", "33"), "batch_size is 33; give 1 to 32"),
            (("extract", "--stride", "0"), "stride is 0"),
            (("extract", "--stride", "half"), "--stride"),
            (("extract", "--frame-step", "0"), "frame_step is 0"),
            (("extract", "--fps", "0"), "fps is 0"),
            (("extract", "--tail", "mirror"), "--tail"),
            (("extract", "--workers", "0"), "'--workers': 0 is not in the range"),
            (("extract", "--format", "csv"), "csv"),
            (("extract", "--max-in-flight", "0"), "max_in_flight is 0"),
            (("classify", "--top", "0"), "top_k is 0"),
        ],
    )
    def test_out_of_range_end_with_2_and_make_nothing(
        self, run, fake_serving, film, monkeypatch, arguments, words
    ):
        monkeypatch.chdir(film.parent)
        out = ["--out", "out"] if arguments[0] == "extract" else []
        code, told, errors = run(*arguments, film, *out, "--server", fake_serving().target)
        assert (code, told, len(errors)) == (2, "", 1)
        assert errors[0].startswith("c3d: ")
        assert words in errors[0]
        assert [p.name for p in film.parent.iterdir()] == ["film.mp4"]

    @pytest.mark.parametrize("command", ["extract", "classify"])
    def test_without_a_video_end_with_2(self, run, command):
        code, _, errors = run(command)
        assert (code, errors) == (2, ["c3d: Missing argument 'INPUT...'."])

    def test_that_are_missing_altogether_show_the_help(self, run):
        code, told, errors = run()
        assert (code, told) == (2, "")
        assert errors[0].startswith("Usage: c3d")
        assert len(errors) > 5

    def test_an_interruption_is_one_line_and_130(self, run, fake_serving, film, monkeypatch):
        def interrupted(*_arguments, **_options):
            raise KeyboardInterrupt

        monkeypatch.setattr("c3d_client.client.C3DClient.extract", interrupted)
        code, _, errors = run(
            "extract", film, "--out", film.parent, "--server", fake_serving().target
        )
        assert code == 130
        # The terminal's ^C stands on a line that click ends first.
        assert [line for line in errors if line] == [
            "c3d: interrupted; files already written are complete"
        ]


class TestHelp:
    @pytest.mark.parametrize("command", [(), *[(name,) for name in cli.cli.commands]])
    def test_is_there_for_every_command(self, run, command):
        for option in ("--help", "-h"):
            code, told, errors = run(*command, option)
            assert (code, errors) == (0, [])
            assert told.startswith("Usage: c3d")

    def test_of_the_module_loads_neither_grpc_nor_the_decoder(self):
        code = (
            "import runpy, sys\n"
            "sys.argv = ['c3d', '--help']\n"
            "try: runpy.run_module('c3d_client', run_name='__main__')\n"
            "finally: print('LOADED', *sys.modules)"
        )
        told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert told.returncode == 0
        assert "Usage: c3d" in told.stdout
        loaded = {name.split(".")[0] for name in told.stdout.split("LOADED")[1].split()}
        assert not {"grpc", "av", "cv2", "numpy", "google"} & loaded

    def test_of_the_module_is_the_commands(self):
        told = subprocess.run(
            [sys.executable, "-m", "c3d_client", "--help"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert told.stdout.startswith("Usage: c3d ")

    def test_the_version_is_the_distributions(self, run):
        assert run("--version") == (0, f"c3d, version {version('c3d-client')}\n", [])
