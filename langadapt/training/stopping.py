"""Stopping when a scheduler asks: SIGTERM or SIGUSR1 lets a run save at its next step, and end with `EXIT_REQUEUE`.

The launcher passes the signal on to its ranks, as SIGUSR1: torchrun itself would end them after half a minute, saved or
not. A rank only notes it; `langadapt.training.trainer` asks all ranks at every step whether one of them has.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from types import FrameType

import psutil
from torch.distributed.elastic.multiprocessing.api import SignalException

EXIT_REQUEUE = 75  # EX_TEMPFAIL of sysexits.h: the same command, run again, goes on
_PR_SET_PDEATHSIG = 1  # of linux/prctl.h
LAUNCHER = "LANGADAPT_LAUNCHER"  # the variable that tells a rank the launcher's process number
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


def end_with_launcher() -> None:
    """Have Linux kill this rank when its launcher is gone: one that outlives it could write beside the next start."""
    if sys.platform == "linux" and LAUNCHER in os.environ:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != int(os.environ[LAUNCHER]):  # it was gone before
            sys.exit(EXIT_REQUEUE)


def note_stop_signals() -> threading.Event:
    """Return an event that is set once this process is asked to stop; it is not ended any more by being asked."""
    asked = threading.Event()

    def note(signal_number: int, frame: FrameType | None) -> None:
        asked.set()

    for stop_signal in STOP_SIGNALS:
        signal.signal(stop_signal, note)
    return asked


def requeue_when_asked() -> None:
    """End this process with `EXIT_REQUEUE` when it is asked to stop: nothing is lost yet but preparations."""
    for stop_signal in STOP_SIGNALS:
        signal.signal(stop_signal, lambda *_: sys.exit(EXIT_REQUEUE))


def pass_on_stop_signals(module: str) -> threading.Event:
    """Return an event that is set once this process is asked to stop; then its children that run ``module`` are.

    They are asked again every second, since some may not have been there yet. A second SIGTERM raises
    `SignalException`, at which torchrun ends them.
    """
    asked = threading.Event()

    def note(signal_number: int, frame: FrameType | None) -> None:
        if asked.is_set() and signal_number == signal.SIGTERM:
            raise SignalException("asked to stop twice", sigval=signal.SIGTERM)
        asked.set()

    def ask() -> None:
        asked.wait()
        while True:
            for child in psutil.Process(os.getpid()).children():
                with contextlib.suppress(psutil.NoSuchProcess):
                    if module in child.cmdline():
                        child.send_signal(signal.SIGUSR1)
            time.sleep(1)

    for stop_signal in STOP_SIGNALS:
        signal.signal(stop_signal, note)
    threading.Thread(target=ask, daemon=True).start()
    return asked
