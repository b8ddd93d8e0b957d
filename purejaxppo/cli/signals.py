"""Signals during a run, and work in a background thread, so that signals are handled while the device is busy."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar, cast

T = TypeVar("T")

WORKER = "purejaxppo-chunks"
POLL_SECONDS = 0.1
ECHO_SECONDS = 1.0  # a terminal that closes sends SIGHUP twice: the kernel and the shell do

# A run that receives one of the first three finishes its chunk and saves; a second one ends it at once. SIGUSR1 is
# the notice that schedulers such as SLURM give ahead of a time limit; SIGTERM follows when the limit is reached.
STOP_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")
NOTICE_SIGNALS = ("SIGUSR1",)


def in_background(items: Iterator[T], stop: Callable[[], bool]) -> Iterator[T]:
    """Yield from `items`, each of which is computed in a background thread.

    The main thread stays free meanwhile, so that signals are handled while the device computes.

    Args:
        items: the iterator to advance.
        stop: called ten times a second while an item is computed; True ends the iteration without waiting.
    """
    pool = ThreadPoolExecutor(1, WORKER)
    nothing = object()
    future: Future = Future()
    try:
        while True:
            future = pool.submit(next, items, nothing)
            while not future.done():
                wait([future], timeout=POLL_SECONDS)
                if stop() and not future.done():
                    return
            if (item := future.result()) is nothing:
                return
            yield cast(T, item)
    finally:
        pool.shutdown(wait=future.done(), cancel_futures=True)


def background_runs() -> bool:
    """Return whether a background thread still computes."""
    return any(thread.name.startswith(WORKER) for thread in threading.enumerate())


@contextmanager
def abort_on_interrupt() -> Iterator[None]:
    """End the process at once on Ctrl-C: an exception raised while JAX loads may be swallowed by a callback."""

    def handle(*_: object) -> None:
        os.write(2, b"purejaxppo: aborted\n")
        os._exit(128 + signal.SIGINT)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class Received(list[int]):
    """Signals in the order of their arrival."""

    def __init__(self) -> None:
        super().__init__()
        self.shielded = False  # a second stop signal waits
        self.waiting = False

    @contextmanager
    def shield(self) -> Iterator[None]:
        """Let a second stop signal raise KeyboardInterrupt at the end of the block, not in the middle of it."""
        self.shielded = True
        try:
            yield
        finally:
            self.shielded = False
        if self.waiting:
            self.waiting = False
            raise KeyboardInterrupt(self[0])


@contextmanager
def collect_signals() -> Iterator[Received]:
    """Collect the signals that ask a run to stop.

    A second stop signal raises KeyboardInterrupt with the first signal as its argument. SIGHUP stays ignored if it
    was, as under `nohup`. In any thread but the main one nothing is collected.
    """
    received = Received()
    arrived: dict[int, float] = {}
    stops = [getattr(signal, name) for name in STOP_SIGNALS if hasattr(signal, name)]
    notices = [getattr(signal, name) for name in NOTICE_SIGNALS if hasattr(signal, name)]

    def handle(number: int, _: FrameType | None) -> None:
        now = time.monotonic()
        echo = number == getattr(signal, "SIGHUP", None) and now - arrived.get(number, -ECHO_SECONDS) < ECHO_SECONDS
        arrived[number] = now
        if echo or (number in notices and received):
            return
        received.append(number)
        if sum(earlier in stops for earlier in received) > 1:
            received.waiting = received.shielded
            if not received.shielded:
                raise KeyboardInterrupt(received[0])

    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    wanted = [number for number in (*stops, *notices) if not _is_ignored_hangup(number)]
    before = {number: signal.signal(number, handle) for number in wanted}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def _is_ignored_hangup(number: int) -> bool:
    return number == getattr(signal, "SIGHUP", None) and signal.getsignal(number) == signal.SIG_IGN
