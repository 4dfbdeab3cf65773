"""What a job asks Slurm for: defaults < the site's file < the command line."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from typing import Literal

from afa_dist.config.fields import Section, section, setting
from afa_dist.errors import Problem

_WORD = re.compile(r"[A-Za-z0-9(!\[][A-Za-z0-9._+:,@\[\]()!&|=/*-]*")
"""What names of partitions, accounts, nodes and features are made of."""

_NAMES = ("partition", "account", "qos", "constraint", "exclude", "nodelist", "reservation", "gpu_type")

_MEMORY = re.compile(r"[1-9][0-9]*[KMGT]?")

_TIMES = (
    (re.compile(r"(?P<m>\d+)"), 10**9),
    (re.compile(r"(?P<m>\d+):(?P<s>\d\d)"), 10**9),
    (re.compile(r"(?P<h>\d+):(?P<m>\d\d):(?P<s>\d\d)"), 59),
    (re.compile(r"(?P<d>\d+)-(?P<h>\d+)"), 59),
    (re.compile(r"(?P<d>\d+)-(?P<h>\d+):(?P<m>\d\d)"), 59),
    (re.compile(r"(?P<d>\d+)-(?P<h>\d+):(?P<m>\d\d):(?P<s>\d\d)"), 59),
)
"""Slurm's ways to write a time, each with the greatest number of minutes in it."""


FOLDER = "~/.afa-dist/slurm"


@dataclasses.dataclass(kw_only=True, frozen=True)
class ContainerConfig(Section):
    """An image that the job runs in. The launcher's own part stays outside."""

    kind: Literal["none", "apptainer", "pyxis"] = setting(
        "none", "what runs the image: Apptainer, or Slurm's plug-in Pyxis"
    )
    image: str = setting("", "the image: a path, or what the tool knows (docker://...)")
    mounts: tuple[str, ...] = setting((), "folders seen inside, as OUTSIDE or OUTSIDE:INSIDE")
    python: str = setting("python3", "the Python inside that has the environment of the project")

    def problems(self) -> Iterator[Problem]:
        if (self.kind == "none") != (not self.image):
            yield Problem("image", "belongs to a kind of container: give both container.kind and container.image, or none")


@dataclasses.dataclass(kw_only=True, frozen=True)
class Request(Section):
    """Resources, and what becomes of a job that is warned or lost."""

    nodes: int = setting(1, "nodes; one task runs on each, and Ray joins them where they are more than one", ge=1)
    gpus_per_node: int = setting(0, "GPUs on each node", ge=0)
    gpu_type: str = setting("", "kind of GPU, by Slurm's name for it (a100); empty = any")
    cpus_per_task: int = setting(0, "CPUs on each node (one task a node); 0 = what the partition gives", ge=0)
    mem: str = setting("", "memory on each node, such as 64G; empty = what the partition gives")
    time: str = setting("", "time limit of one start, as Slurm writes it: 90, 24:00:00, 2-12; a run may take several")
    partition: str = setting("", "partition; empty = the default one")
    account: str = setting("", "account to be charged; empty = your default one")
    qos: str = setting("", "quality of service")
    constraint: str = setting("", "features that nodes must have")
    exclude: str = setting("", "nodes not to be used")
    nodelist: str = setting("", "nodes to be used")
    reservation: str = setting("", "reservation to be used")
    after: str = setting("", "job or jobs (with : between them) that must have ended well before")
    array: int = setting(
        0, "evaluate, generate sample and select: so many elements of a job array, each with a share of the shards", ge=0
    )
    max_parallel: int = setting(32, "elements of an array at a time", ge=1)
    retries: int = setting(2, "times that elements of an array that failed are tried again, alone", ge=0)
    chain: bool = setting(False, "pipeline only: one job a stage, each waiting for those it builds on")
    signal_seconds: int = setting(90, "how long before the time limit the job is warned", ge=10)
    max_timeouts: int = setting(100, "so often a run that met its time limit is requeued", ge=0)
    max_preemptions: int = setting(1000, "so often a run that was told to go is requeued", ge=0)
    max_losses: int = setting(20, "so often a run goes on after a node or a process was lost", ge=0)
    max_idle: int = setting(3, "starts in a row without anything saved, after which the run ends", ge=1)
    drain_seconds: float = setting(60.0, "time between two looks at whether a node is being drained; 0 = never", ge=0)
    folder: str = setting(FOLDER, "folder for what is submitted, seen by all nodes and closed to others (mode 0700)")
    tmp: str = setting("/tmp", "folder of each node for temporary files; its name must be short, for Ray's sockets")  # noqa: S108
    setup: tuple[str, ...] = setting((), "lines of bash that a job begins with (site files): modules, variables")
    extra: tuple[str, ...] = setting((), "further options of sbatch, as name=value")
    container: ContainerConfig = section(ContainerConfig, "an image that the job runs in")
    check: bool = setting(False, "check everything, ask Slurm whether it would take the job, and stop")

    def problems(self) -> Iterator[Problem]:
        yield from self._word_problems()
        if not self.time:
            yield Problem("time", "is needed: how long may one start take? For example 24:00:00 (a longer run is requeued)")
        elif minutes_of(self.time) is None:
            yield Problem("time", f"{self.time!r} is not a time: {TIME_WORDS}")
        elif (minutes_of(self.time) or 0) * 60 <= self.signal_seconds:
            yield Problem("signal_seconds", f"{self.signal_seconds} s are not less than the time limit, {self.time}")
        if self.mem and not _MEMORY.fullmatch(self.mem):
            yield Problem("mem", f"{self.mem!r} is not an amount of memory: a number of MB, or one with K, M, G or T")
        for name in ("folder", "tmp"):
            if problem := path_problem(getattr(self, name)):
                yield Problem(name, problem)
        if len(self.tmp) > LONGEST_TMP:
            yield Problem(
                "tmp", f"{self.tmp!r} is longer than {LONGEST_TMP} characters, which is too long for Ray's sockets"
            )
        for option in self.extra:
            if not re.fullmatch(r"[a-z][a-z-]*(=[^\x00-\x1f]*)?", option):
                yield Problem("extra", f"{option!r} is not an option of sbatch such as name=value, without dashes in front")

    def _word_problems(self) -> Iterator[Problem]:
        for name in _NAMES:
            value = getattr(self, name)
            if value and not _WORD.fullmatch(value):
                yield Problem(
                    name, f"{value!r} is not a name that Slurm can have given (letters, digits and . _ + - , : @)"
                )
        if self.after and not re.fullmatch(r"\d+([:,]\d+)*", self.after):
            yield Problem("after", f"{self.after!r} is not the number of a job, or several with ':' between them")

    @property
    def minutes(self) -> int:
        """The time limit of one start, in whole minutes: Slurm has no finer ones."""
        return minutes_of(self.time) or 1


LONGEST_TMP = 25
"""Ray's sockets lie deep below its folder, and the path of a socket may have 107 characters."""

TIME_WORDS = "minutes, or MM:SS, HH:MM:SS, D-HH, D-HH:MM, D-HH:MM:SS (below 60 minutes and seconds)"


def minutes_of(text: str) -> int | None:
    """A time as Slurm writes it, in minutes, rounded up; None if it is none, or not above zero."""
    for form, most_minutes in _TIMES:
        if match := form.fullmatch(text.strip()):
            part = {name: int(value) for name, value in match.groupdict().items()}
            if part.get("s", 0) > 59 or part.get("m", 0) > most_minutes or ("d" in part and part.get("h", 0) > 23):
                return None
            seconds = ((part.get("d", 0) * 24 + part.get("h", 0)) * 60 + part.get("m", 0)) * 60 + part.get("s", 0)
            return -(-seconds // 60) or None
    return None


def path_problem(path: str) -> str:
    """Why a path cannot stand in a batch script; empty if it can. Slurm reads % as a pattern and \\ as an escape there."""
    if not path:
        return "is empty"
    bad = sorted({character for character in path if character in "%\\" or not character.isprintable()})
    return f"{path!r} holds {', '.join(map(repr, bad))}, which Slurm would not take as they are" if bad else ""
