"""A set of images, drawn or chosen, from its checked specification to Parquet files.

In this process or on Ray workers, at once, after a kill, or by the elements of a job array: the set is the same.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import time
import warnings
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from afa_dist.diffusion.finish import Finish
from afa_dist.diffusion.rows import CALLS
from afa_dist.diffusion.shards import DamagedShard, ForeignShard, read_shard, write_shard
from afa_dist.errors import Stopped, TrainingError, UserError
from afa_dist.evaluation.executor import Executor, InProcess, OnProgress, Progress, Stop, call_each
from afa_dist.memory import keep_freed_memory
from afa_dist.runtime.evaluate import stop_of
from afa_dist.runtime.placement import Placement
from afa_dist.runtime.set_checks import IDENTITY, PreparedSet, record_problems
from afa_dist.training.mirroring import Copier, complete, put_files
from afa_dist.training.provenance import provenance
from afa_dist.training.run_dir import OTHERS_SECONDS, RunDirectory

SUMMARY = "summary.json"

ATTEMPTS = 3
"""How often what was damaged between writing and reading is made again."""


def make_set(prepared: PreparedSet[Any], placement: Placement, on_progress: OnProgress) -> dict[str, Any]:
    """Draw or score what is not there yet, choose, compare, and write `data/` and `summary.json`; returns the summary. A
    finished set is only read back. A start with `shard` does its share, and returns what of it is done.

    Call it inside the session that gave `placement`.

    Raises:
        Stopped: the time limit, or a signal; the same command goes on.
        UserError: `merge`, and not all is there; or the directory holds another set.
        TrainingError: workers were lost too often.
    """
    run, facts = prepared.run, prepared.facts()
    directory = RunDirectory.of(run)
    with contextlib.ExitStack() as stack:
        stack.enter_context(directory.locked(OTHERS_SECONDS, shared=bool(run.shard)))
        stop = stack.enter_context(stop_of(run))
        if problems := list(record_problems(run, directory, facts)):  # another start may have come between
            raise UserError(problems)
        if recorded := directory.read_json(SUMMARY):
            complete(run, directory)
            return recorded
        whole = dataclasses.replace(run, shard="", merge=False, time_limit=0.0)
        directory.create(whole, provenance(run.seed, prepared.trained_on))
        (directory.path / "candidates").mkdir(exist_ok=True)
        directory.write_json(IDENTITY, facts)
        work = Work(prepared, directory, facts)
        if run.merge and (missing := work.missing(on_progress, stop)):
            what = f"{len(missing)} of {work.shards} shards are not finished; start the elements again that they belong to"
            raise UserError.one("merge", f"{what}, or leave out merge")
        executor = _executor(prepared, placement)
        work.make(executor, on_progress, stop)
        if run.shard:
            put_files(run, directory)  # whoever merges may be on another machine
            return {"shard": run.shard, "shards": len(run.shards_of(work.shards)), "of": work.shards}
        for _ in range(ATTEMPTS):
            try:
                summary = work.finish(on_progress, stop)
            except DamagedShard as error:
                warnings.warn(f"{error}; it is made again", stacklevel=2)
                work.make(executor, on_progress, stop)
                continue
            directory.write_json(SUMMARY, summary)
            complete(run, directory)
            return summary
        raise TrainingError(
            f"what is written to {directory.path} does not stay whole; look at the disk, then repeat the command"
        )


def _executor(prepared: PreparedSet[Any], placement: Placement) -> Executor:
    if placement.workers == 0:
        torch.set_num_threads(placement.threads)
        keep_freed_memory()
        scorer = prepared.scorer.net if prepared.scorer is not None else None
        device = "cuda" if placement.gpu else "cpu"
        return InProcess(prepared.maker(prepared.run, prepared.origin, prepared.classes, scorer, device), CALLS)
    from afa_dist.runtime.ray_image_sets import on_ray  # imports Ray, after the session's settings

    return on_ray(prepared, placement)


class Work:
    """What one start has to make, and what it and others have made."""

    def __init__(self, prepared: PreparedSet[Any], directory: RunDirectory, facts: dict[str, Any]) -> None:
        self.run, self.prepared, self.directory, self.facts = prepared.run, prepared, directory, facts
        self.identity = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        self.images = prepared.candidates
        self.shards = -(-self.images // self.run.shard_size)
        self.copier = Copier(self.run, directory)

    def path(self, shard: int) -> Path:
        return self.directory.path / "candidates" / f"{shard:06d}.parquet"

    def part(self, shard: int) -> range:
        """Numbers of the images of a shard."""
        return range(shard * self.run.shard_size, min((shard + 1) * self.run.shard_size, self.images))

    def missing(self, on_progress: OnProgress, stop: Stop) -> list[int]:
        """This start's shards that are not there, or not whole."""
        missing = []
        for shard in self.run.shards_of(self.shards):
            if reason := stop():
                raise Stopped(reason)
            on_progress(Progress(f"looking at what is there, shard {shard + 1} of {self.shards}", 0.0, None))
            if not self._whole(shard):
                missing.append(shard)
        return missing

    def _whole(self, shard: int) -> bool:
        try:
            read_shard(self.path(shard), self.identity, len(self.part(shard)))
        except FileNotFoundError:
            return False
        except DamagedShard as error:
            warnings.warn(f"{error}; it is made again", stacklevel=2)
            return False
        except ForeignShard as error:
            raise UserError.one("name", f"{error}; choose another name") from error
        return True

    def make(self, executor: Executor, on_progress: OnProgress, stop: Stop) -> None:
        """Make all missing shards, batch by batch, each kept when its last batch is there.

        Raises:
            Stopped: `stop` gave a reason; finished shards stay.
        """
        batches = [
            (shard, start)
            for shard in self.missing(on_progress, stop)
            for start in range(self.part(shard).start, self.part(shard).stop, self.run.batch_size)
        ]
        total, done, began = len(batches), 0, time.monotonic()
        made: dict[int, dict[int, pa.Table]] = {}

        def tick() -> None:
            if reason := stop():
                lost = sum(len(tables) for tables in made.values())
                raise Stopped(reason, f"{lost} batches of shards that are not full are made again" if lost else "")
            left = (time.monotonic() - began) / done * (total - done) if done else None
            on_progress(Progress(f"{self._made_before(total, done)} of {self.images} images", done / total, left))

        calls = (("rows", start, min(start + self.run.batch_size, self.part(shard).stop)) for shard, start in batches)
        for number, table in call_each(calls, executor, tick) if batches else ():
            shard, start = batches[number]
            made.setdefault(shard, {})[start] = table
            done += 1
            if sum(map(len, made[shard].values())) == len(self.part(shard)):
                tables = made.pop(shard)
                whole = pa.concat_tables([tables[start] for start in sorted(tables)])
                write_shard(self.path(shard), whole, self.prepared.classes, self.identity)
                self.copier.copy()
            tick()

    def _made_before(self, total: int, done: int) -> int:
        """About how many images of the set are there."""
        return max(0, self.images - (total - done) * self.run.batch_size)

    def finish(self, on_progress: OnProgress, stop: Stop) -> dict[str, Any]:
        """Choose, write the data set, and compare it with real images; returns the summary."""

        def tick() -> None:
            if reason := stop():
                raise Stopped(reason)
            on_progress(Progress("choosing and comparing", 1.0, None))

        candidates = [(self.path(shard), len(self.part(shard))) for shard in range(self.shards)]
        finish = Finish(
            self.run,
            self.directory.path,
            candidates,
            self.identity,
            self.facts,
            self.prepared.real,
            self.prepared.completed,
            tick,
        )
        return finish.summary()
