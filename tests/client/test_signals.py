"""SIGINT and SIGTERM are noticed whichever thread receives them."""

import ctypes
import os
import signal
import subprocess
import sys
import threading

import pytest
from c3d_client.core.signals import interrupted_by, signal_event, sigterm_as_ctrl_c

TIMEOUT_S = 300
# The number of tgkill(2), because Python cannot signal a thread of another process.
_TGKILL = {"x86_64": 234, "aarch64": 131}

# Two threads: the main one waits for a lock, the other for a pipe to which nothing is written.
_WAITING = """
import os, signal, threading
from c3d_client.core.signals import signal_event
other = threading.Thread(target=os.read, args=(os.pipe()[0], 1), daemon=True)
other.start()
with signal_event(signal.SIGTERM) as event:
    print(other.native_id, flush=True)
    event.wait()
    print("received", flush=True)
"""


def test_signal_that_another_thread_receives_sets_the_event():
    if os.uname().machine not in _TGKILL:
        pytest.skip("tgkill's number is known for x86-64 and AArch64")
    command = [sys.executable, "-c", _WAITING]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            thread = int(process.stdout.readline())
            tgkill = _TGKILL[os.uname().machine]
            sent = ctypes.CDLL(None).syscall(tgkill, process.pid, thread, int(signal.SIGTERM))
            assert sent == 0
            rest, _ = process.communicate(timeout=TIMEOUT_S)
        finally:
            process.kill()
    assert rest == "received\n"
    assert process.returncode == 0


def test_only_the_given_signals_set_the_event():
    others = []
    before = signal.signal(signal.SIGUSR2, lambda *_: others.append(1))
    try:
        with signal_event(signal.SIGUSR1) as event:
            signal.raise_signal(signal.SIGUSR2)
            assert others
            assert not event.wait(0.1)
            signal.raise_signal(signal.SIGUSR1)
            assert event.wait(TIMEOUT_S)
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_former_handler_is_restored():
    def handler(number, frame):
        """Another handler."""

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with signal_event(signal.SIGUSR1):
            assert signal.getsignal(signal.SIGUSR1) is not handler
        assert signal.getsignal(signal.SIGUSR1) is handler
        assert signal.set_wakeup_fd(-1) == -1
        assert "c3d-signals" not in [thread.name for thread in threading.enumerate()]
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_outside_the_main_thread_handlers_are_unchanged():
    handlers = []

    def in_thread():
        before = signal.getsignal(signal.SIGUSR1)
        with signal_event(signal.SIGUSR1) as event:
            handlers.append((signal.getsignal(signal.SIGUSR1) is before, event.is_set()))

    thread = threading.Thread(target=in_thread)
    thread.start()
    thread.join()
    assert handlers == [(True, False)]


def test_sigterm_raises_keyboard_interrupt_and_is_recorded():
    before = signal.getsignal(signal.SIGTERM)
    with sigterm_as_ctrl_c() as received:
        assert received == []
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        assert received == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) is before


# C code that runs until its input ends and handles no signal, as a kernel of TensorFlow does: it
# has begun when its child process prints. Or a destructor, in which Python ignores all exceptions.
_INTERRUPTED = """
import os, signal, sys, time
from c3d_client.core.files import atomic_file, clean_up
from c3d_client.core.signals import interrupted_by

class Ignoring:
    def __del__(self):
        print("ready", flush=True)
        time.sleep(600)

def late(number):
    clean_up()
    os._exit(100 + number)

with interrupted_by(signal.SIGTERM, grace_s=0.2, late=late), atomic_file(sys.argv[1]) as file:
    file.write(b"half")
    if sys.argv[2] == "C code":
        os.system("echo ready; read line")
    Ignoring()
    time.sleep(600)
"""


@pytest.mark.parametrize("busy", ["C code", "a destructor"])
def test_process_that_python_cannot_interrupt_ends_and_leaves_no_file(tmp_path, busy):
    command = [sys.executable, "-c", _INTERRUPTED, str(tmp_path / "file"), busy]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, **pipes) as process:
        try:
            assert process.stdout.readline() == b"ready\n"
            assert [*tmp_path.iterdir()]
            process.send_signal(signal.SIGTERM)
            assert process.wait(TIMEOUT_S) == 100 + signal.SIGTERM
        finally:
            process.kill()
    assert [*tmp_path.iterdir()] == []


def test_only_the_first_of_several_signals_interrupts():
    calls = []
    with interrupted_by(signal.SIGUSR1, signal.SIGUSR2, grace_s=60, late=calls.append) as received:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGUSR1)
        signal.raise_signal(signal.SIGUSR2)
        signal.raise_signal(signal.SIGUSR1)
        assert received == [signal.SIGUSR1, signal.SIGUSR2, signal.SIGUSR1]
    assert calls == []
