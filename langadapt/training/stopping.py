"""Stopping when a scheduler asks: SIGTERM or SIGUSR1 lets a run save at its next step, and end with `EXIT_REQUEUE`.

The launcher passes the signal on to its ranks, as SIGUSR1: torchrun itself would end them after half a minute, saved or
not. A rank only notes it; `langadapt.training.trainer` asks all ranks at every step whether one of them has.
"""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType

import psutil

EXIT_REQUEUE = 75  # EX_TEMPFAIL of sysexits.h: the same command, run again, goes on
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


def note_stop_signals() -> threading.Event:
    """Return an event that is set once this process is asked to stop; it is not ended any more by being asked."""
    asked = threading.Event()

    def note(signal_number: int, frame: FrameType | None) -> None:
        asked.set()

    for stop_signal in STOP_SIGNALS:
        signal.signal(stop_signal, note)
    return asked


def pass_on_stop_signals(module: str) -> threading.Event:
    """Return an event that is set once this process is asked to stop; then its children that run ``module`` are."""
    asked = threading.Event()

    def pass_on(signal_number: int, frame: FrameType | None) -> None:
        asked.set()
        for child in psutil.Process(os.getpid()).children():
            try:
                if module in child.cmdline():
                    child.send_signal(signal.SIGUSR1)
            except psutil.NoSuchProcess:
                continue

    for stop_signal in STOP_SIGNALS:
        signal.signal(stop_signal, pass_on)
    return asked
