"""Signals that ask a run to stop are collected, and handled while the device is busy."""

import itertools
import os
import signal
import threading
import time

import pytest

from purejaxppo.cli import signals
from purejaxppo.cli.signals import abort_on_interrupt, background_runs, collect_signals, in_background


def send(number):
    """Send a signal to this process; the handler has run when this function returns."""
    os.kill(os.getpid(), number)
    time.sleep(0)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"])
def test_the_first_signal_is_collected_and_the_handlers_are_restored(name):
    number = getattr(signal, name)
    before = signal.getsignal(number)
    with collect_signals() as received:
        assert received == []
        send(number)
        assert received == [number]
    assert signal.getsignal(number) == before


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_second_stop_signal_raises_and_names_the_first(second):
    with collect_signals():
        send(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt) as caught:
            send(second)
    assert caught.value.args == (signal.SIGTERM,)


def test_a_signal_after_a_notice_does_not_count_as_a_second_signal():
    with collect_signals() as received:
        send(signal.SIGUSR1)
        send(signal.SIGUSR1)
        send(signal.SIGTERM)
        assert received == [signal.SIGUSR1, signal.SIGTERM]
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGTERM)


def test_a_terminal_that_closes_sends_one_hangup_not_two(monkeypatch):
    with collect_signals() as received:
        send(signal.SIGHUP)
        send(signal.SIGHUP)
        assert received == [signal.SIGHUP]
        monkeypatch.setattr(signals, "ECHO_SECONDS", 0.0)
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGHUP)


def test_nohup_is_respected():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with collect_signals() as received:
            send(signal.SIGHUP)
            assert received == []
    finally:
        signal.signal(signal.SIGHUP, before)


def test_in_another_thread_nothing_is_installed():
    seen = []

    def look():
        with abort_on_interrupt(), collect_signals() as received:
            seen.append((received, signal.getsignal(signal.SIGTERM)))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [([], before)]


def test_items_and_errors_come_in_order_from_one_background_thread():
    def items():
        for i in range(3):
            yield i, threading.current_thread().name
        raise ValueError("broken")

    got = []
    with pytest.raises(ValueError, match="broken"):
        got.extend(in_background(items(), lambda: False))
    assert [i for i, _ in got] == [0, 1, 2]
    assert all(name.startswith(signals.WORKER) for _, name in got)


def test_a_signal_is_handled_while_an_item_is_computed_without_waiting_for_it():
    go_on = threading.Event()

    def items():
        yield 0
        signal.raise_signal(signal.SIGTERM)  # from another thread; the main thread handles it
        go_on.wait()
        yield 1

    with collect_signals() as received:
        got = list(in_background(items(), lambda: bool(received)))
        assert got == [0]
        assert received == [signal.SIGTERM]
        assert background_runs()
    go_on.set()


def test_an_item_that_is_ready_is_not_lost():
    stopped = iter([False, True])
    assert list(itertools.islice(in_background(iter(range(2)), lambda: next(stopped, True)), 2)) == [0, 1]
