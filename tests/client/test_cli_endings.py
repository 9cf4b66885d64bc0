"""The command `c3d` without a usable server, with bad arguments, and its help."""

import subprocess
import sys
from importlib.metadata import version

import pytest
from c3d_client import cli
from support.fake_serving import model_card, signature_defs


class TestUnusableServers:
    @pytest.fixture
    def errors_of(self, run, video, tmp_path):
        """Run the three commands that use a server; return the one line of each on stderr."""

        def run_commands(*options):
            lines = []
            for command in ("extract", "classify", "status"):
                videos = [] if command == "status" else [video]
                out = ["--out", tmp_path / "out"] if command == "extract" else []
                code, _, stderr = run(command, *videos, *out, *options)
                assert (code, len(stderr)) == (2, 1), (command, options)
                assert stderr[0].startswith("c3d: "), (command, options)
                assert not list(tmp_path.rglob("*.npz"))
                lines.append(stderr[0])
            return lines

        return run_commands

    def test_no_server(self, errors_of, closed_port):
        for no_wait in (("--patience", "0"), ("--retries", "0")):
            lines = errors_of("--server", closed_port, *no_wait)
            assert all("no server answers" in line for line in lines), no_wait

    def test_server_without_the_model_or_version(self, errors_of, narrow_server):
        for options, expected in (
            (("--model", "other"), "does not have model 'other'"),
            (("--model-version", 7), "does not have model 'c3d' version 7"),
        ):
            for line in errors_of("--server", narrow_server.target, *options):
                assert expected in line

    def test_model_of_another_contract(self, errors_of, fake_serving):
        server = fake_serving(card=model_card(contract_version="2"))
        for line in errors_of("--server", server.target):
            assert "its contract version is '2', this client's is '1'" in line

    def test_another_model(self, errors_of, fake_serving):
        signatures = signature_defs()
        del signatures["fc6_features"]
        for line in errors_of("--server", fake_serving(signatures=signatures).target):
            assert "has no signature 'fc6_features'" in line

    def test_bad_options(self, errors_of):
        for options in (
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
            ("--patience", "-1"),
            ("--patience", "inf"),
            ("--patience", "soon"),
        ):
            errors_of(*options)


class TestArguments:
    def test_values_out_of_range_are_refused_before_anything_is_written(
        self, run, fake_serving, video, monkeypatch
    ):
        monkeypatch.chdir(video.parent)
        server = fake_serving()
        for arguments, expected in (
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
        ):
            out = ["--out", "out"] if arguments[0] == "extract" else []
            code, stdout, stderr = run(*arguments, video, *out, "--server", server.target)
            assert (code, stdout, len(stderr)) == (2, "", 1), arguments
            assert stderr[0].startswith("c3d: "), arguments
            assert expected in stderr[0], arguments
            assert [path.name for path in video.parent.iterdir()] == ["video.mp4"], arguments

    def test_missing_video_is_an_error(self, run):
        for command in ("extract", "classify"):
            code, _, stderr = run(command)
            assert (code, stderr) == (2, ["c3d: Missing argument 'INPUT...'."]), command

    def test_no_arguments_show_the_help(self, run):
        code, stdout, stderr = run()
        assert (code, stdout) == (2, "")
        assert stderr[0].startswith("Usage: c3d")
        assert len(stderr) > 5

    def test_interruption_is_one_line_and_exit_code_130(
        self, run, fake_serving, video, monkeypatch
    ):
        def interrupt(*_arguments, **_options):
            raise KeyboardInterrupt

        monkeypatch.setattr("c3d_client.client.C3DClient._extract", interrupt)
        code, _, stderr = run(
            "extract", video, "--out", video.parent, "--server", fake_serving().target
        )
        assert code == 130
        # click first ends the line on which the terminal shows ^C.
        assert [line for line in stderr if line] == [
            "c3d: interrupted; files already written are complete"
        ]


class TestHelp:
    def test_help_of_every_command_fits_the_terminal(self, run, monkeypatch):
        for columns in (60, 80):
            monkeypatch.setenv("COLUMNS", str(columns))
            for command in ((), *((name,) for name in cli.cli.commands)):
                for option in ("--help", "-h"):
                    code, stdout, stderr = run(*command, option)
                    assert (code, stderr) == (0, []), command
                    assert stdout.startswith("Usage: c3d"), command
                    assert max(map(len, stdout.splitlines())) <= columns, (command, columns)

    def test_help_loads_neither_grpc_nor_the_decoder(self):
        code = (
            "import runpy, sys\n"
            "sys.argv = ['c3d', '--help']\n"
            "try: runpy.run_module('c3d_client', run_name='__main__')\n"
            "finally: print('LOADED', *sys.modules)"
        )
        completed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert completed.returncode == 0
        assert "Usage: c3d" in completed.stdout
        modules = {name.split(".")[0] for name in completed.stdout.split("LOADED")[1].split()}
        assert not {"grpc", "av", "cv2", "numpy", "google", "jinja2", "rich"} & modules

    def test_module_is_the_command(self):
        completed = subprocess.run(
            [sys.executable, "-m", "c3d_client", "--help"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert completed.stdout.startswith("Usage: c3d ")

    def test_version_is_that_of_the_distribution(self, run):
        assert run("--version") == (0, f"c3d, version {version('c3d-client')}\n", [])
