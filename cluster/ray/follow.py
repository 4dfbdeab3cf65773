"""A submitted job seen from here: its log as it grows, and its exit code."""

from __future__ import annotations

import asyncio
import functools
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import aiohttp

from afa_dist.cli.words import say
from afa_dist.errors import UserError
from cluster.ray.submission import first_line

STOPPED = 143
"""Exit code of a job that was stopped from outside: that of a process ended by SIGTERM."""

LOOK_SECONDS = 1.0
SILENT_SECONDS = 30.0
"""After so long without a word from the job's log the cluster is asked whether the job still runs."""

LOST_SECONDS = 600.0

UNANSWERED = (RuntimeError, OSError, aiohttp.ClientError, TimeoutError)


class Follower:
    """Follows one job. The connection may be lost meanwhile, for up to `LOST_SECONDS`."""

    def __init__(self, client: Any, job: str) -> None:
        self.client = client
        self.job = job
        self.shown = 0
        """Characters of the log."""
        self._failing_since: float | None = None

    def follow(self) -> int:
        """Print the log until the job ends; returns its own exit code.

        Raises:
            UserError: the cluster is gone.
        """
        while True:
            asyncio.run(self._tail())
            info = self._asked(functools.partial(self.client.get_job_info, self.job))
            if info is not None and info.status.is_terminal():
                # What came while nobody listened.
                self._show(self._asked(functools.partial(self.client.get_job_logs, self.job)) or "", 0)
                return _code(info)
            time.sleep(LOOK_SECONDS if info is not None else 5 * LOOK_SECONDS)

    async def _tail(self) -> None:
        """Show the log as it comes, until it ends, is silent, or the connection is lost."""
        seen = 0
        texts = self.client.tail_job_logs(self.job)
        while True:
            try:
                text = await asyncio.wait_for(anext(texts), SILENT_SECONDS)
            except (StopAsyncIteration, *UNANSWERED):
                break
            self._show(text, seen)
            seen += len(text)
        await texts.aclose()

    def _show(self, text: str, at: int) -> None:
        """Print what of `text`, which begins at character `at` of the log, was not shown yet."""
        new = text[max(0, self.shown - at) :]
        sys.stdout.write(new)
        sys.stdout.flush()
        self.shown = max(self.shown, at + len(text))

    def _asked(self, question: Callable[[], Any]) -> Any:
        """The answer, or None if there is none now."""
        try:
            answer = _answer(question)
        except UNANSWERED as error:
            if self._failing_since is None:
                self._failing_since = time.monotonic()
                say(f"the cluster does not answer ({first_line(error)}); trying again")
            if time.monotonic() - self._failing_since > LOST_SECONDS:
                what = f"no answer for {LOST_SECONDS:g} s; the job {self.job} may still run"
                raise UserError.one("address", what) from error
            return None
        self._failing_since = None
        return answer


def _answer(question: Callable[[], Any]) -> Any:
    """The answer within `SILENT_SECONDS`: Ray's client would wait for ever for a machine that is gone, and so would a pool
    of threads at the end of this process.
    """
    box: Future[Any] = Future()

    def target() -> None:
        try:
            box.set_result(question())
        except BaseException as error:
            box.set_exception(error)

    threading.Thread(target=target, daemon=True).start()
    return box.result(SILENT_SECONDS)


def _code(info: Any) -> int:
    status = info.status.value
    if status == "SUCCEEDED":
        return 0
    if status == "STOPPED":
        say("the job was stopped; the same command continues it")
        return STOPPED
    if info.driver_exit_code is None:
        say(f"the job failed: {info.message}")
        return 1
    code = int(info.driver_exit_code)
    return code if code >= 0 else 128 - code
