"""What the driver and the workers of one start tell each other: rows of metrics, troubles, that it is time to stop.

It lies in the key-value store of the cluster's head, so that they need no folder in common. The store outlives the driver;
`Board.clear` empties it.
"""

from __future__ import annotations

import contextlib
import json
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import ray
from ray.experimental import internal_kv
from ray.util.placement_group import PlacementGroup, get_current_placement_group, remove_placement_group

from afa_dist.training.recorder import OnRow

POLL_SECONDS = 0.25

LAST_WORDS_SECONDS = 5.0
"""How long a worker that ends tries to say why."""


class Board:
    """The driver's side.

    start: the identity of the start in provenance.json.
    """

    def __init__(self, start: str) -> None:
        self._start = start
        self._closed = threading.Event()
        self._groups = 0
        self._asked: set[str] = set()

    @contextlib.contextmanager
    def shown(self, on_row: OnRow) -> Iterator[None]:
        """Inside, rows are handed to `on_row` in a thread, soon after the main worker wrote them."""
        ended = threading.Event()

        def work() -> None:
            over = False
            while not over:
                over = ended.wait(2 * POLL_SECONDS)
                with _unanswered():
                    for rows in self._take("rows"):
                        for row in rows:
                            on_row(row)

        thread = threading.Thread(target=work, name="afa-dist-rows", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join(LAST_WORDS_SECONDS)
            self._closed.set()  # a call that is under way when Ray is shut down ends the process
            thread.join(LAST_WORDS_SECONDS)

    def ask_to_stop(self, group: str, reason: str) -> None:
        """Tell the workers of `group`, once, that its time is over."""
        if group not in self._asked:
            self._asked.add(group)
            _soon(_put, f"{self._start}/stop/{group}", reason)

    def groups(self) -> int:
        """How many groups got as far as to train, as far as is known."""
        with _unanswered():
            self._groups = len(_keys(f"{self._start}/began/"))
        return self._groups

    def take_troubles(self) -> list[str]:
        """What workers said that ended since the last call."""
        found: list[str] = []
        with _unanswered():
            found += self._take("trouble")
        return found

    def clear(self) -> None:
        """Forget everything."""
        _soon(_delete, f"{self._start}/", True)

    def _take(self, kind: str) -> list[Any]:
        found = []
        for key in sorted(_keys(f"{self._start}/{kind}/")):
            if self._closed.is_set():
                break
            found.append(_get(key))
            _delete(key)
        return found


class WorkerBoard:
    """A worker's side; the main worker also listens. Nothing of it waits long for the head of the cluster."""

    def __init__(self, start: str, group: str, listens: bool) -> None:
        self._start = start
        self._group = group
        self._asked = ""
        self._rows: queue.SimpleQueue[Mapping[str, Any]] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="afa-dist-board", daemon=True)
        if listens:
            self._thread.start()

    def began(self) -> None:
        """Say that this group trains, and which of Ray's placement groups it is in."""
        held = get_current_placement_group()
        _soon(_put, f"{self._start}/began/{self._group}", held.id.hex() if held is not None else "")

    def row(self, row: Mapping[str, Any]) -> None:
        """Show a row of metrics soon."""
        self._rows.put(row)

    def asked_to_stop(self) -> str:
        """The reason if this group is asked to stop, else an empty text. Cheap: called in every step."""
        return self._asked

    def trouble(self, what: str) -> None:
        """Say why this process ends now."""
        _soon(_put, f"{self._start}/trouble/{_now()}", what)

    def close(self) -> None:
        """Send the rows that are left, as long as the head answers."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(LAST_WORDS_SECONDS)

    def _work(self) -> None:
        while not (self._closing.is_set() and self._rows.empty()):
            with _unanswered():
                self._asked = self._asked or str(_get(f"{self._start}/stop/{self._group}") or "")
            with contextlib.suppress(queue.Empty):
                rows = [self._rows.get(timeout=POLL_SECONDS)]
                while not self._rows.empty():  # together: on a busy machine the driver could not keep up with each
                    rows.append(self._rows.get())
                with _unanswered():
                    _put(f"{self._start}/rows/{_now()}", rows)


class SearchBoard:
    """The driver's side of a search: what trials are told.

    search: the identity of this start of it.
    """

    def __init__(self, search: str) -> None:
        self._search = search
        self._stopping = ""

    def give_verdict(self, number: int, why: str) -> None:
        """Tell a trial that it is not worth its end. It asks as soon as its report was answered, so this must be there."""
        _put(f"{self._search}/verdict/{number}", why)

    def stop_all(self, reason: str) -> None:
        """Tell all trials, once, to save and stop."""
        if not self._stopping:
            self._stopping = reason
            _soon(_put, f"{self._search}/stop", reason)

    def clear(self) -> None:
        """Forget everything."""
        _soon(_delete, f"{self._search}/", True)


def remove_left_groups(start: str) -> None:
    """Free what workers of a start hold whose driver was killed. Ray does so itself only with a dashboard; without it
    whoever comes after them would wait for their places for good."""
    with _unanswered():
        for key in _keys(f"{start}/began/") if start else []:
            if identity := _get(key):
                remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(identity))))
            _delete(key)


class TrialBoard:
    """A trial's side: whether the search wants it to stop."""

    def __init__(self, search: str, number: int) -> None:
        self._search, self._number = search, number
        self._asked = ""
        self._closing = threading.Event()
        threading.Thread(target=self._work, name="afa-dist-trial", daemon=True).start()

    def asked_to_stop(self) -> str:
        """The reason if all trials are to stop, else an empty text. Cheap: called in every step."""
        return self._asked

    def verdict(self) -> str:
        """The reason if this trial is not worth its end, else an empty text."""
        try:
            return str(_get(f"{self._search}/verdict/{self._number}") or "")
        except Exception:  # whatever Ray raises when the head does not answer; it will be judged again
            return ""

    def close(self) -> None:
        self._closing.set()

    def _work(self) -> None:
        while not self._closing.wait(POLL_SECONDS):
            with _unanswered():
                self._asked = self._asked or str(_get(f"{self._search}/stop") or "")


_PREFIX = "afa-dist/"


def _unanswered() -> contextlib.AbstractContextManager[None]:
    """Whatever Ray raises when the head does not answer, for a while or for good; what ends the run then says so."""
    return contextlib.suppress(Exception)


def _soon(function: Callable[..., object], *arguments: Any) -> None:
    """Call a function that may wait for a head that does not answer, but do not wait for it long."""

    def work() -> None:
        with _unanswered():
            function(*arguments)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(LAST_WORDS_SECONDS)


def _put(key: str, value: Any) -> None:
    internal_kv._internal_kv_put(f"{_PREFIX}{key}", json.dumps(value))


def _get(key: str) -> Any:
    value = internal_kv._internal_kv_get(f"{_PREFIX}{key}")
    return json.loads(value) if value else None


def _delete(key: str, all_that_begin: bool = False) -> None:
    internal_kv._internal_kv_del(f"{_PREFIX}{key}", del_by_prefix=all_that_begin)


def _keys(prefix: str) -> list[str]:
    return [key.decode().removeprefix(_PREFIX) for key in internal_kv._internal_kv_list(f"{_PREFIX}{prefix}")]


def _now() -> str:
    """A name for what is said now, later than what was said before."""
    return f"{time.time_ns():020}"
