"""Fetching what comes next while what is there is used."""

from __future__ import annotations

import atexit
import queue
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any, Generic, TypeVar

T = TypeVar("T")

EXIT_SECONDS = 5.0
"""How long a process that ends waits for what is being fetched. A thread that is still computing when Python is gone takes
the process with it, and its exit code; one that waits for a server does not."""

_BEGUN: weakref.WeakSet[Future[Any]] = weakref.WeakSet()


@atexit.register
def _finish() -> None:
    wait([future for future in _BEGUN if not future.cancel()], EXIT_SECONDS)


class Ahead(Generic[T]):
    """`fetch(step)`, made by a thread before it is asked for if the last call was for the step before.

    Any step may be asked for at any time; the result is that of `fetch`, and so are its exceptions. A process that ends
    does not wait for long for what is being fetched, which may be hours of a download.
    """

    def __init__(self, fetch: Callable[[int], T]) -> None:
        self._fetch = fetch
        self._work: queue.SimpleQueue[Any] = queue.SimpleQueue()
        # The thread knows the queue alone, so that whoever fetches ahead can be forgotten.
        threading.Thread(target=_serve, args=(self._work,), name="afa-dist-ahead", daemon=True).start()
        self._next: tuple[int, Future[T]] | None = None

    def __call__(self, step: int) -> T:
        ready, self._next = self._next, None
        now = ready[1] if ready is not None and ready[0] == step else self._submit(step)
        self._next = step + 1, self._submit(step + 1)
        return now.result()

    def _submit(self, step: int) -> Future[T]:
        future: Future[T] = Future()
        _BEGUN.add(future)
        self._work.put((future, self._fetch, step))
        return future

    def __del__(self) -> None:
        self._work.put(None)


def _serve(work: queue.SimpleQueue[Any]) -> None:
    while (item := work.get()) is not None:
        future, fetch, step = item
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(fetch(step))
            except BaseException as error:  # it is raised where the result is asked for
                future.set_exception(error)
        del item, future, fetch
