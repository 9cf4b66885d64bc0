"""Targets `local:PATH`: a server that the client starts, shares and stops."""

from __future__ import annotations

import contextlib
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from c3d_client import (
    C3DClient,
    C3DError,
    Cancelled,
    ServingOptions,
    ServingUnavailable,
    UsageError,
)
from c3d_client.serving import local
from c3d_client.serving.channel import failure_of
from support.processes import LONG_S, servers_of, wait_until
from support.videos import write_video


@pytest.fixture(scope="module")
def served(narrow_base):
    """A client whose server runs during all tests of this file that use its path."""
    with C3DClient.local(narrow_base) as c3d:
        c3d.model_info()
        yield c3d


@pytest.fixture
def base(narrow_base, tmp_path):
    """Another path of the same model, whose files are links. Do not write to them."""
    return Path(shutil.copytree(narrow_base, tmp_path / "models" / "c3d", copy_function=os.link))


@pytest.fixture
def program():
    """Start Python programs; each is killed after the test, with what it forked."""
    started = []

    def start(code, *arguments):
        # Python warns of a fork of a process with threads.
        command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code]
        command += map(str, arguments)
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # gRPC logs at a fork whether its threads were at work.
            env={**os.environ, "GRPC_VERBOSITY": "NONE"},
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        with process, contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


class TestTarget:
    def test_path_of_a_target(self):
        for target, path in (
            ("local:models/c3d", "models/c3d"),
            ("local:/models/c3d/1", "/models/c3d/1"),
            ("local:./8500", "./8500"),
            ("local:~/models: new/c3d", "~/models: new/c3d"),
            (" local:models\n", "models"),
            ("localhost:8500", None),
            ("local:8500", None),
            ("local", None),
            ("unix:models/c3d", None),
            ("dns:///local", None),
        ):
            options = ServingOptions(target)
            assert options.local_path == path, target
            stays_here = path is not None or target.startswith(("localhost", "unix"))
            assert options.is_local == stays_here, target

    def test_host_with_the_name_local_is_still_an_address(self):
        assert ServingOptions("local:80").target == "local:80"
        assert ServingOptions("local").target == "local:8500"
        details = "errors resolving local:80: [UNKNOWN: Name or service not known]"
        error, _ = failure_of("UNAVAILABLE", details, ServingOptions("local:80"))
        assert "or write local:./80 for a folder" in str(error)

    def test_target_without_a_path_is_refused(self):
        with pytest.raises(UsageError, match=r"model follows local: \(local:models/c3d has one\)"):
            ServingOptions("local:")

    def test_tls_and_tokens_are_refused(self, run, tmp_path):
        (tmp_path / "token").write_text("secret\n")
        target = f"local:{tmp_path}"
        for options, named in (
            (("--tls",), "takes no TLS"),
            (("--ca", "ca.pem"), "takes no TLS"),
            (("--cert", "c.pem", "--key", "k.pem"), "takes no TLS"),
            (("--override-name", "c3d"), "takes no TLS"),
            (("--token-file", tmp_path / "token"), "takes no token"),
        ):
            code, stdout, stderr = run("status", "--server", target, *options)
            assert (code, stdout, len(stderr)) == (2, "", 1), options
            assert named in stderr[0], options
            assert "secret" not in stderr[0], options

    def test_folder_that_does_not_exist_is_an_error_before_a_server_starts(self, run, tmp_path):
        for path in (tmp_path / "absent", tmp_path / "file"):
            (tmp_path / "file").write_text("no folder")
            code, stdout, stderr = run("extract", "video.mp4", "--server", f"local:{path}")
            assert (code, stdout, len(stderr)) == (2, "", 1), path
            assert stderr[0].startswith(f"c3d: local:{path}: no folder of a model there"), path
            assert "c3d-export build" in stderr[0], path
        for path in (b"models", None, 3):
            with pytest.raises(UsageError, match="path is .*; give a path"):
                C3DClient.local(path)

    def test_missing_exporter_is_named_in_one_line(self, run, narrow_base, monkeypatch):
        monkeypatch.setitem(sys.modules, "c3d_export", None)
        code, stdout, stderr = run("status", "--server", f"local:{narrow_base}")
        assert (code, stdout, len(stderr)) == (2, "", 1)
        assert f"c3d-export is not installed for {sys.executable}; install it" in stderr[0]

    def test_folder_with_a_number_for_a_name_is_a_path(self, narrow_base, monkeypatch):
        monkeypatch.chdir(narrow_base)
        with C3DClient.local("1") as c3d:
            assert c3d.serving.options.local_path == "./1"

    def test_home_folder_is_expanded(self, narrow_base, monkeypatch):
        monkeypatch.setenv("HOME", str(narrow_base.parent))
        with C3DClient.local("~/c3d"):
            pass
        with pytest.raises(UsageError, match="local:~/absent: no folder"):
            C3DClient.local("~/absent")


class TestServer:
    def test_features_and_provenance_are_those_of_a_server_with_an_address(
        self, served, narrow_server, narrow_base, video
    ):
        ours = served.extract(video)
        with C3DClient(narrow_server.target) as c3d:
            theirs = c3d.extract(video)
        np.testing.assert_array_equal(ours.clip_features, theirs.clip_features)
        assert ours.provenance == theirs.provenance
        assert served.serving.options.target == f"local:{narrow_base}"

    def test_all_commands_take_it_and_share_the_server_of_the_process(
        self, served, run, narrow_base, video, tmp_path, monkeypatch
    ):
        (server,) = servers_of(narrow_base)
        target = f"local:{narrow_base}"
        code, stdout, _ = run("status", "--server", target)
        assert code == 0
        assert stdout.startswith(f"server     {target}  SERVING\nversion    1  AVAILABLE")
        out = tmp_path / "out"
        assert run("extract", video, "--out", out, "--server", target)[0] == 0
        assert [path.name for path in out.iterdir()] == ["video.mp4.npz"]
        monkeypatch.setenv("C3D_SERVER", target)
        code, stdout, _ = run("classify", video, "--top", 2)
        assert code == 0
        assert "label" in stdout
        code, stdout, _ = run("bench", video, "--seconds", "0.01", "--json")
        assert code == 0
        assert f'"target": "{target}"' in stdout
        assert servers_of(narrow_base) == {server}

    @pytest.mark.long
    def test_clients_and_threads_share_one_server_which_the_last_client_stops(self, base, video):
        clients = [C3DClient.local(base), C3DClient.local(base, stride=16, layers=("fc7",))]
        assert not servers_of(base)
        with ThreadPoolExecutor(4) as pool:
            results = list(pool.map(lambda number: clients[number % 2].extract(video), range(4)))
        assert [len(result.clip_starts) for result in results] == [2, 1, 2, 1]
        (server,) = servers_of(base)
        assert os.getpgid(server) == server  # a terminal's Ctrl-C does not reach it
        clients[0].close()
        clients[0].close()
        assert clients[1].extract(video).clip_features.shape == (1, 4096)
        assert servers_of(base) == {server}
        clients[1].close()
        assert not servers_of(base)
        for client in clients:
            with pytest.raises(UsageError, match=f"the client of local:{base} is closed"):
                client.extract(video)

    @pytest.mark.long
    def test_wait_for_one_versions_folder_is_printed_and_can_be_cancelled(
        self, base, run, monkeypatch
    ):
        shutil.copytree(base / "1", base / "7", copy_function=os.link)
        base = base / "1"
        cancel = threading.Event()
        with C3DClient.local(base) as c3d, ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(c3d.serving.model_info, cancel=cancel)
            wait_until(lambda: servers_of(base))
            (server,) = servers_of(base)
            os.kill(server, signal.SIGSTOP)
            cancel.set()
            with pytest.raises(Cancelled, match=f"local:{base}: the request was cancelled"):
                waiting.result()
            # The command joins the server that is still starting and goes on after the notice.
            notice = local.LocalServer._notice

            def noticed(self):
                notice(self)
                os.kill(server, signal.SIGCONT)

            monkeypatch.setattr(local, "NOTICE_S", 0.0)
            monkeypatch.setattr(local.LocalServer, "_notice", noticed)
            code, stdout, stderr = run("status", "--server", f"local:{base}")
        assert code == 0
        assert "version    1  AVAILABLE" in stdout
        assert "version    7" not in stdout
        assert stderr[0] == f"c3d: waiting for local:{base}: its server starts and loads the model"
        assert stderr[1].startswith(f"c3d: local:{base} is ready after ")
        assert not servers_of(base)

    @pytest.mark.parametrize(
        "poll_s", [local.CANCEL_POLL_S, pytest.param(LONG_S, marks=pytest.mark.long)]
    )
    def test_client_that_is_closed_during_the_wait_ends_the_server(self, base, monkeypatch, poll_s):
        # With the longer one the end of the server is always noticed before that of the client.
        monkeypatch.setattr(local, "CANCEL_POLL_S", poll_s)
        c3d = C3DClient.local(base)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(c3d.model_info)
            wait_until(lambda: servers_of(base))
            c3d.close()
            with pytest.raises(C3DError, match=f"local:{base}: the connection was closed"):
                waiting.result()
        assert not servers_of(base)

    @pytest.mark.long
    def test_other_model_name_has_its_own_server(self, served, narrow_base):
        options = ServingOptions(f"local:{narrow_base}", model="sports")
        with C3DClient(options=options) as c3d:
            assert c3d.provenance()["model"]["name"] == "sports"
            assert len(servers_of(narrow_base)) == 2
        assert len(servers_of(narrow_base)) == 1


class TestErrors:
    def test_folder_without_a_version_is_the_servers_own_message(self, run, tmp_path):
        code, stdout, stderr = run("status", "--server", f"local:{tmp_path}")
        assert (code, stdout, len(stderr)) == (2, "", 1)
        assert stderr[0].startswith(f"c3d: local:{tmp_path}: no model version there")
        assert not servers_of(tmp_path)

    @pytest.mark.long
    def test_broken_model_is_the_servers_own_message(self, narrow_copy, video):
        (narrow_copy / "1" / "saved_model.pb").write_bytes(b"damaged")
        with C3DClient.local(narrow_copy) as c3d:
            for _ in range(2):  # and not another start
                with pytest.raises(ServingUnavailable, match="/1.*saved_model") as caught:
                    c3d.extract(video)
                text = str(caught.value)
                assert text.startswith(f"local:{narrow_copy}: {narrow_copy}/1"), text
                assert "\n" not in text
                assert "Traceback" not in text
            assert str(pickle.loads(pickle.dumps(caught.value))) == text

    def test_server_that_ends_or_cannot_be_started_is_one_line(self, base, monkeypatch):
        def problem():
            with C3DClient.local(base) as c3d, pytest.raises(ServingUnavailable) as caught:
                c3d.model_info()
            assert str(caught.value).startswith(f"local:{base}: its server ")
            return str(caught.value)

        with monkeypatch.context() as patched:
            patched.setattr(local, "_MODULE", "this")  # it can be run, and is no server
            assert problem().endswith("ended with exit code 0")
        monkeypatch.setattr(sys, "executable", "/bin/false")
        assert problem().endswith("ended with exit code 1")
        monkeypatch.setattr(sys, "executable", "/absent/python")
        assert "cannot be started" in problem()
        assert "/absent/python" in problem()

    def test_address_is_not_read_from_a_weight_files_name(self):
        line = b"ready: c3d version 1 at 127.0.0.1:4242, weights look at me, v2.npz, for this "
        ready = local._READY.match(line)
        assert ready is not None
        assert ready[1] == b"127.0.0.1:4242"

    def test_end_of_a_server_is_told_by_its_exit_code_and_log(self):
        text = local._end_text
        assert text(2, ["W noise", "c3d-export: m/1: damaged"], "m") == "m/1: damaged"
        assert text(2, ["c3d-export: models: empty"], "models") == "empty"
        assert text(1, ["a", "b ", "c", "d"], "models") == (
            "its server ended with exit code 1; the last lines of its log: b | c | d"
        )
        assert "was killed (SIGKILL); there may be too little memory" in text(-9, [], "models")
        assert "was killed (SIGSEGV)" in text(-11, [], "models")

    @pytest.mark.faults
    def test_server_that_is_killed_is_an_error_at_once_and_the_next_client_has_a_new_one(
        self, base, video
    ):
        with C3DClient.local(base) as c3d:
            c3d.extract(video)
            (server,) = servers_of(base)
            os.kill(server, signal.SIGKILL)
            for _ in range(2):
                with pytest.raises(ServingUnavailable, match=r"was killed \(SIGKILL\)") as caught:
                    c3d.extract(video)
                assert str(caught.value).startswith(f"local:{base}: its server was killed")
            with C3DClient.local(base) as other:
                assert other.extract(video).clip_features.shape == (2, 4096)
                assert servers_of(base) not in ({server}, set())
        assert not servers_of(base)


_READY = """
import os, sys, time
from c3d_client import C3DClient
c3d = C3DClient.local(sys.argv[1])
print("made", flush=True)
c3d.model_info()
"""
_FORKED = (
    _READY
    + """
print("ready", flush=True)
if os.fork() == 0:
    time.sleep(600)
time.sleep(600)
"""
)


@pytest.mark.faults
class TestEndOfTheClient:
    def test_kill_9_ends_the_server_also_where_a_forked_process_goes_on(self, program, base):
        process = program(_FORKED, base)
        assert process.stdout.readline() == "made\n"
        assert process.stdout.readline() == "ready\n", process.stderr.read()
        assert len(servers_of(base)) == 1
        wait_until(lambda: _children(process.pid, base))
        (child,) = _children(process.pid, base)
        process.kill()
        wait_until(lambda: not servers_of(base), "the server goes on")
        os.kill(child, 0)

    def test_kill_9_while_the_model_loads_ends_the_server(self, program, base):
        process = program(_READY, base)
        assert process.stdout.readline() == "made\n"
        wait_until(lambda: servers_of(base))
        process.kill()
        wait_until(lambda: not servers_of(base), "the server goes on")

    def test_program_that_closes_no_client_leaves_no_server_and_no_warning(self, program, base):
        strict = "import warnings; warnings.simplefilter('error', ResourceWarning)"
        process = program(f"{strict}\n{_READY}", base)
        _, errors = process.communicate()
        assert (process.returncode, errors) == (0, "")
        wait_until(lambda: not servers_of(base))

    def test_forked_process_starts_its_own_server_and_leaves_the_other(self, program, base, video):
        code = (
            _READY
            + """
            from c3d_client import UsageError
            child = os.fork()
            if child == 0:
                try:
                    c3d.extract(sys.argv[2])
                except UsageError as error:
                    print(error, flush=True)
                c3d.close()
                with C3DClient.local(sys.argv[1]) as own:
                    print(own.extract(sys.argv[2]).clip_features.shape, flush=True)
                sys.exit(0)
            print(os.waitpid(child, 0)[1], flush=True)
            print(c3d.extract(sys.argv[2]).clip_features.shape, flush=True)
            """
        ).replace("\n            ", "\n")
        process = program(code, base, video)
        output, errors = process.communicate()
        assert errors == ""
        made, refused, *rest = output.splitlines()
        assert made == "made"
        assert refused.startswith(f"the connection to local:{base} was made before")
        assert rest == ["(2, 4096)", "0", "(2, 4096)"]
        assert not servers_of(base)

    def test_ctrl_c_in_a_terminal_lets_the_video_in_progress_be_finished(
        self, program, base, tmp_path
    ):
        # Far more than can be done between the first file and the signal.
        (tmp_path / "videos").mkdir()
        first = write_video(tmp_path / "videos" / "a000.mp4", 200)
        for number in range(1, 200):
            os.link(first, first.with_name(f"a{number:03}.mp4"))
        code = "from c3d_client.cli import main; import sys; main(sys.argv[1:])"
        process = program(
            code,
            *("extract", tmp_path / "videos", "--out", tmp_path / "out", "--workers", 1),
            *("--server", f"local:{base}"),
        )
        wait_until(lambda: list((tmp_path / "out").glob("a*")) or process.poll() is not None)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to all processes of the group
        _, errors = process.communicate()
        assert process.returncode == 130, errors
        assert "finishing the videos in progress" in errors
        done = sorted(path.name for path in (tmp_path / "out").glob("*.npz"))
        assert done == [f"a{number:03}.mp4.npz" for number in range(len(done))]
        assert 1 <= len(done) < 200
        assert f"{len(done)} videos done" in errors
        assert "failed" not in errors
        assert not servers_of(base)


def _children(parent, path):
    """Return the processes that a program forked, without its server."""
    with open(f"/proc/{parent}/task/{parent}/children") as file:
        return {int(number) for number in file.read().split()} - servers_of(path)
