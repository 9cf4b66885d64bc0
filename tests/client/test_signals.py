"""Signals that end a process are heard whichever thread gets them and whatever main is at."""

import ctypes
import os
import signal
import subprocess
import sys
import threading

import pytest
from c3d_client.core.signals import signal_event, sigterm_as_ctrl_c

TIMEOUT_S = 60
# The number of tgkill(2): Python has no call that picks another process's thread.
_TGKILL = {"x86_64": 234, "aarch64": 131}

# Two threads: the main one sleeps on a lock, the other on a pipe that nobody writes to.
_WAITING = """
import os, signal, threading
from c3d_client.core.signals import signal_event
other = threading.Thread(target=os.read, args=(os.pipe()[0], 1), daemon=True)
other.start()
with signal_event(signal.SIGTERM) as asked:
    print(other.native_id, flush=True)
    asked.wait()
    print("heard", flush=True)
"""


def test_a_signal_that_another_thread_gets_is_heard():
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
    assert rest == "heard\n"
    assert process.returncode == 0


def test_only_the_signals_asked_for_set_the_event():
    others = []
    before = signal.signal(signal.SIGUSR2, lambda *_: others.append(1))
    try:
        with signal_event(signal.SIGUSR1) as asked:
            signal.raise_signal(signal.SIGUSR2)
            assert others
            assert not asked.wait(0.1)
            signal.raise_signal(signal.SIGUSR1)
            assert asked.wait(TIMEOUT_S)
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_what_was_there_before_is_there_again():
    def handler(number, frame):
        """Somebody else's."""

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with signal_event(signal.SIGUSR1):
            assert signal.getsignal(signal.SIGUSR1) is not handler
        assert signal.getsignal(signal.SIGUSR1) is handler
        assert signal.set_wakeup_fd(-1) == -1
        assert "c3d-signals" not in [thread.name for thread in threading.enumerate()]
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_outside_the_main_thread_nothing_is_changed():
    handlers = []

    def elsewhere():
        before = signal.getsignal(signal.SIGUSR1)
        with signal_event(signal.SIGUSR1) as asked:
            handlers.append((signal.getsignal(signal.SIGUSR1) is before, asked.is_set()))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert handlers == [(True, False)]


def test_sigterm_interrupts_as_ctrl_c_does_and_is_told_apart():
    before = signal.getsignal(signal.SIGTERM)
    with sigterm_as_ctrl_c() as told:
        assert told == []
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        assert told == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) is before
