"""Signals during a run, and work in a background thread."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any

WORKER = "purejaxppo-chunks"


def in_background(chunks: Iterator[Any], look: Callable[[], None]) -> Iterator[Any]:
    """Yield from `chunks`, which run in a thread of their own: so Ctrl-C is heard while the device is busy.

    `look` is called ten times a second meanwhile.
    """
    pool = ThreadPoolExecutor(1, WORKER)
    nothing = object()
    try:
        while True:
            future = pool.submit(next, chunks, nothing)
            while not future.done():
                wait([future], timeout=0.1)
                look()
            if (item := future.result()) is nothing:
                return
            yield item
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


@contextmanager
def abort_on_interrupt() -> Iterator[None]:
    """Ctrl-C ends the process here and now: raised while JAX loads, it may end in a callback that swallows it."""

    def handle(*_: Any) -> None:
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


@contextmanager
def collect_signals() -> Iterator[list[int]]:
    """Collect Ctrl-C (and SIGTERM) in a list instead of raising; a second one raises KeyboardInterrupt."""
    received: list[int] = []

    def handle(number: int, _: Any) -> None:
        received.append(number)
        if len(received) > 1:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
