"""One run of a drill: started, struck at random steps, started again, until it ends."""

from __future__ import annotations

import contextlib
import dataclasses
import random
import shutil
import signal
import time
from collections.abc import Callable

import psutil

from afa_dist.cli.drill_attempt import STEPS, Attempt, Site
from afa_dist.errors import TrainingError


@dataclasses.dataclass(frozen=True)
class Blow:
    """What was done to a run: how, when the last noted step was `step`; it went on from the checkpoint of `resumed`."""

    what: str
    step: int
    resumed: int

    @property
    def repeated(self) -> int:
        """Steps that were made twice, as far as they had been noted."""
        return max(0, self.step - self.resumed)


def strike(attempt: Attempt, rng: random.Random) -> str:
    """Do something to a running attempt; returns what. The attempt has ended afterwards."""
    what = rng.choice(list(BLOWS[attempt.way]))
    BLOWS[attempt.way][what](attempt, rng)
    attempt.wait()
    return what


def _kill_everything(attempt: Attempt, rng: random.Random) -> None:
    attempt.kill_all()


def _kill_the_first(attempt: Attempt, rng: random.Random) -> None:
    """The process that the user started, alone; what it leaves behind must not be in the way."""
    family = attempt.family()
    attempt.process.kill()
    attempt.process.wait()
    _, alive = psutil.wait_procs(family[1:], timeout=20)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def _kill_a_worker(attempt: Attempt, rng: random.Random) -> None:
    """torchrun ends the others then, and Ray starts all of them again by itself."""
    if workers := attempt.workers():
        rng.choice(workers).kill()


def _warn(attempt: Attempt, rng: random.Random) -> None:
    attempt.process.send_signal(signal.SIGTERM)


def _kill_and_damage(attempt: Attempt, rng: random.Random) -> None:
    attempt.kill_all()
    store = attempt.directory.checkpoints
    if len(steps := store.steps()) > 1:
        file = rng.choice(sorted(store.path(steps[-1]).iterdir()))
        data = bytearray(file.read_bytes())
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        file.write_bytes(data)


def _lose_the_machine(attempt: Attempt, rng: random.Random) -> None:
    """All its processes and its disk: the next start is another machine's."""
    attempt.kill_all()
    shutil.rmtree(attempt.site.machine)


BLOWS: dict[str, dict[str, Callable[[Attempt, random.Random], None]]] = {
    "process": {"killed": _kill_everything, "warned": _warn, "killed, newest checkpoint damaged": _kill_and_damage},
    "torchrun": {"all killed": _kill_everything, "a worker killed": _kill_a_worker, "warned": _warn},
    "ray": {
        "a worker killed": _kill_a_worker,
        "driver killed": _kill_the_first,
        "all killed": _kill_everything,
        "warned": _warn,
    },
    "store": {"machine lost": _lose_the_machine, "killed": _kill_everything, "warned": _warn},
}


def run_once(site: Site) -> None:
    """The undisturbed run.

    Raises:
        TrainingError: it does not end as it should.
    """
    site.folder.mkdir(parents=True)
    attempt = Attempt(site)
    if code := attempt.wait():
        raise TrainingError(f"a run without disturbance ended with exit code {code}; see {attempt.log.name}")


def run_struck(site: Site, blows: int, rng: random.Random) -> list[Blow]:
    """A run that is struck up to `blows` times, at random steps, and started again each time.

    Raises:
        TrainingError: it cannot be brought to its end.
    """
    site.folder.mkdir(parents=True)
    struck = []
    for step in sorted(rng.sample(range(1, STEPS), rng.randint(1, blows))):
        attempt = Attempt(site)
        if not attempt.wait_for_step(step):
            break
        time.sleep(rng.random() * 0.1)  # anywhere between two steps, or in the middle of a checkpoint
        at = attempt.last_step()
        what = strike(attempt, rng)
        struck.append((what, at, site.saved()))
    attempt = Attempt(site)
    if code := attempt.wait():
        raise TrainingError(f"the last start of a run ended with exit code {code}; see {attempt.log.name}")
    return [Blow(*entry) for entry in struck]
