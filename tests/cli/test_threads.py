"""Work in threads: results in order, the first error, and an interrupt that another thread was given."""

import signal
import sys
import threading
import time

import pytest

from unbraid.cli.threads import in_threads


def test_results_are_in_the_order_of_the_items() -> None:
    def do(item: int) -> int:
        time.sleep(0.02 * (5 - item))
        return item * item

    assert in_threads(do, range(5), 3, name="test", stop=threading.Event()) == [0, 1, 4, 9, 16]


def test_an_error_stops_the_others() -> None:
    stop = threading.Event()

    def do(item: int) -> bool:
        if item == 0:
            raise OSError("the first")
        return stop.wait(30)

    with pytest.raises(OSError, match="the first"):
        in_threads(do, range(2), 2, name="test", stop=stop)
    assert stop.is_set()


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_an_interrupt_that_a_working_thread_is_given_stops_the_work() -> None:
    stop = threading.Event()
    stopped = []

    def do(item: int) -> None:
        time.sleep(0.3)  # until the main thread waits
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)
        stopped.append(stop.wait(30))

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            in_threads(do, range(1), 1, name="test", stop=stop)
    finally:
        signal.signal(signal.SIGINT, before)
    assert stopped == [True]
