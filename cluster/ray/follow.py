"""A submitted job seen from here: its log as it grows, and its exit code."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Callable
from typing import Any

import aiohttp

from afa_dist.cli.words import say

STOPPED = 143
"""Exit code of a job that was stopped from outside: that of a process ended by SIGTERM."""

LOOK_SECONDS = 1.0
LONGEST_SILENCE = 600.0

UNANSWERED = (RuntimeError, OSError, aiohttp.ClientError, asyncio.TimeoutError)


def follow(client: Any, job: str) -> int:
    """Print the log of `job` until it ends; returns its own exit code. The connection may be lost meanwhile."""
    shown, silent_since = 0, time.monotonic()
    while True:
        with contextlib.suppress(*UNANSWERED):
            shown = max(shown, asyncio.run(_tail(client, job, shown)))
        try:
            info = client.get_job_info(job)
            silent_since = time.monotonic()
        except UNANSWERED as error:
            if time.monotonic() - silent_since > LONGEST_SILENCE:
                raise
            say(f"the cluster does not answer ({_first_line(error)}); trying again")
            time.sleep(5 * LOOK_SECONDS)
            continue
        if info.status.is_terminal():
            return _code(info, say)
        time.sleep(LOOK_SECONDS)


async def _tail(client: Any, job: str, skip: int) -> int:
    """Print what comes after `skip` characters of the log; returns how many there are now."""
    seen = 0
    try:
        async for text in client.tail_job_logs(job):
            new = text[max(0, skip - seen) :] if seen < skip else text
            seen += len(text)
            sys.stdout.write(new)
            sys.stdout.flush()
    except UNANSWERED:
        return max(seen, skip)
    return seen


def _code(info: Any, tell: Callable[[str], None]) -> int:
    status = info.status.value
    if status == "SUCCEEDED":
        return 0
    if status == "STOPPED":
        tell("the job was stopped; the same command continues it")
        return STOPPED
    if info.driver_exit_code is None:
        tell(f"the job failed: {info.message}")
        return 1
    return int(info.driver_exit_code)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
