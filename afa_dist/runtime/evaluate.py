"""An evaluation from its checked specification to `summary.json`: in this process or on Ray workers, at once, after a kill,
or by the elements of a job array. The result is the same."""

from __future__ import annotations

import contextlib
import dataclasses
import time
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from afa_dist.config import EvaluateRun, ShardedRun
from afa_dist.errors import Stopped, TrainingError, UserError
from afa_dist.evaluation.checked_file import DamagedOutcome
from afa_dist.evaluation.evaluator import ShardEvaluator
from afa_dist.evaluation.executor import Executor, InProcess, OnProgress, Progress, Stop, call_all
from afa_dist.evaluation.outcome import CLEAN, ForeignOutcome, Outcome, OutcomeStore, identity_of
from afa_dist.evaluation.per_image import shard_table, write_per_image
from afa_dist.evaluation.plan import Plan
from afa_dist.evaluation.probes import PROBED
from afa_dist.evaluation.summary import accuracies, label_of, warnings_of
from afa_dist.evaluation.work import CALLS, work_off
from afa_dist.memory import keep_freed_memory
from afa_dist.runtime.evaluation_checks import IDENTITY, Prepared, facts_of, record_problems
from afa_dist.runtime.placement import Placement
from afa_dist.training.mirroring import Copier, complete, put_files
from afa_dist.training.provenance import provenance
from afa_dist.training.run_dir import OTHERS_SECONDS, RunDirectory
from afa_dist.training.warned import heed_signals

SUMMARY = "evaluation/summary.json"

ATTEMPTS = 3
"""How often what was damaged between writing and reading is computed again."""


def evaluate(run: EvaluateRun, prepared: Prepared, placement: Placement, on_progress: OnProgress) -> dict[str, Any]:
    """Evaluate, keep each outcome, and write `evaluation/summary.json` and `per_image.parquet`; returns the summary. A
    finished evaluation is only read back. A start with `shard` does its share, and returns what of it is done.

    Call it inside the session that gave `placement`.

    Raises:
        Stopped: the time limit, or a signal; the same command goes on.
        UserError: `merge`, and not all is there; or the network gives nonsense on an unchanged image.
        TrainingError: workers were lost too often, or what is written does not stay whole.
    """
    directory, facts = RunDirectory.of(run), facts_of(run, prepared)
    with contextlib.ExitStack() as stack:
        stack.enter_context(directory.locked(OTHERS_SECONDS, shared=bool(run.shard)))
        stop = stack.enter_context(stop_of(run))
        # Once more, now that nobody else writes: another start may have come between.
        if problems := list(record_problems(run, directory, facts)):
            raise UserError(problems)
        if recorded := directory.read_json(SUMMARY):
            complete(run, directory)
            return recorded
        whole = dataclasses.replace(run, shard="", merge=False, time_limit=0.0)  # what all starts have in common
        directory.create(whole, provenance(run.seed, facts["data_fingerprint"]))
        (directory.path / "evaluation").mkdir(exist_ok=True)
        directory.write_json(IDENTITY, facts)
        store = OutcomeStore(directory.path / "evaluation" / "shards", identity_of(facts))
        executor = _executor(run, prepared, placement)
        for _ in range(ATTEMPTS):
            work = _Work(run, prepared, directory, store)
            work_off(work.plan, executor, work.commit, on_progress, stop)
            if run.shard:
                put_files(run, directory)  # whoever merges may be on another machine
                return work.share_done()
            try:
                summary = work.finish(executor, on_progress, stop, facts)
            except DamagedOutcome as error:
                warnings.warn(f"{error}; it is computed again", stacklevel=2)
                continue
            directory.write_json(SUMMARY, summary)
            complete(run, directory)
            return summary
        raise TrainingError(
            f"what is written to {store.folder} does not stay whole; look at the disk, then repeat the command"
        )


def so_far(run: EvaluateRun, prepared: Prepared) -> dict[str, Any]:
    """Accuracies under the attacks that an evaluation which was stopped has finished on all images."""
    directory = RunDirectory.of(run)
    store = OutcomeStore(directory.path / "evaluation" / "shards", identity_of(facts_of(run, prepared)))
    work = _Work(dataclasses.replace(run, merge=False, shard=""), prepared, directory, store)
    done = [name for stage, name in enumerate(work.plan.names) if work.plan.complete(stage)]
    if not done:
        return {}
    broken_by = [by for table in work.tables(done) for by in table["broken_by"].to_pylist()]
    attacks = [name for name in done if name != CLEAN]
    return {
        "accuracies": accuracies(broken_by, attacks, run.threat.eps),
        "attacks": attacks,
        "label": label_of(attacks, run.threat.eps),
    }


class _Work:
    """What one start has to do, and what it and others have done."""

    def __init__(self, run: EvaluateRun, prepared: Prepared, directory: RunDirectory, store: OutcomeStore) -> None:
        self.run, self.prepared, self.directory, self.store = run, prepared, directory, store
        self.copier = Copier(run, directory)
        test = prepared.test
        # In a ball without extent there is nothing to attack: accuracies are the clean one.
        attacks = run.single_attacks if run.threat.eps > 0 else []
        count = -(-len(test) // run.shard_size)
        shards = run.shards_of(count)
        self.plan = Plan(len(test), run.shard_size, attacks, len(test.classes), self._stored, shards)
        if run.merge:
            self._refuse_to_compute()

    def commit(self, outcome: Outcome) -> None:
        self.store.save(outcome)
        self.copier.copy()

    def share_done(self) -> dict[str, Any]:
        return {"shard": self.run.shard, "shards": len(self.plan.shards), "of": len(self.plan.starts)}

    def finish(self, executor: Executor, on_progress: OnProgress, stop: Stop, facts: dict[str, Any]) -> dict[str, Any]:
        """Look at every adversarial image again, probe the network, write the table; returns the summary."""

        def tick() -> None:
            if reason := stop():
                raise Stopped(reason)
            on_progress(Progress("final check of all adversarial images", 1.0, None))

        tables = list(self.tables(self.plan.names))
        broken_by = [by for table in tables for by in table["broken_by"].to_pylist()]
        right = np.array([index for index, by in enumerate(broken_by) if by != CLEAN], dtype=np.int64)
        probed: dict[str, Any] = {}
        if len(right):
            chosen = right[np.linspace(0, len(right) - 1, min(PROBED, len(right))).round().astype(np.int64)]
            (probed,) = call_all([("probe", chosen)], executor, tick)
        rechecks = (("recheck", *self._broken(start)) for start in self.plan.starts)
        rechecked = call_all(rechecks, executor, tick)
        not_confirmed = sorted(index for _, failed in rechecked for index in failed)
        table = write_per_image(self.directory.path / "evaluation" / "per_image.parquet", tables)
        attacks = self.run.single_attacks
        fallen = len(broken_by) - broken_by.count(None) - broken_by.count(CLEAN)
        return {
            "accuracies": accuracies(broken_by, attacks, self.run.threat.eps),
            "label": label_of(attacks, self.run.threat.eps),
            "warnings": list(warnings_of(broken_by, attacks, probed, not_confirmed, fallen - _finite(table))),
            "rechecked": {"images": sum(count for count, _ in rechecked), "failed": not_confirmed},
            "probes": probed,
            "seconds": round(float(np.sum(table["seconds"].to_numpy())), 1),
            "model": self.run.model,
            **{key: value for key, value in facts.items() if key != "answers"},
        }

    def tables(self, names: Sequence[str]) -> Iterator[pa.Table]:
        """The rows of each shard, as `names` left them.

        Raises:
            DamagedOutcome: something that was kept is so no more.
        """
        for start in self.plan.starts:
            yield shard_table(list(self._outcomes(start, names)), self.prepared.test)

    def _outcomes(self, start: int, names: Sequence[str]) -> Iterator[Outcome]:
        return self.store.in_order(start, min(start + self.run.shard_size, len(self.prepared.test)), names)

    def _broken(self, start: int) -> tuple[np.ndarray, torch.Tensor]:
        """Indices and adversarial images of a shard."""
        attacks = [outcome for outcome in self._outcomes(start, self.plan.names) if outcome.name != CLEAN]
        indices = np.concatenate([np.empty(0, np.int64), *(outcome.broken for outcome in attacks)])
        empty = torch.empty(0, *self.prepared.test.shape)
        return indices, torch.cat([empty, *(outcome.tensors["x_adv_RCHW"] for outcome in attacks)])

    def _stored(self, start: int, name: str) -> Outcome | None:
        try:
            return self.store.load(start, name)
        except DamagedOutcome as error:
            warnings.warn(f"{error}; it is computed again", stacklevel=2)
            return None
        except ForeignOutcome as error:
            raise UserError.one("name", f"{error}; choose another name") from error

    def _refuse_to_compute(self) -> None:
        plan = self.plan
        missing = [shard + 1 for shard in plan.shards if plan.stage[shard] < len(plan.names)]
        if missing:
            which = ", ".join(map(str, missing[:20])) + (", ..." if len(missing) > 20 else "")
            what = f"{len(missing)} of {len(plan.starts)} shards are not finished (number {which})"
            raise UserError.one("merge", f"{what}; start the elements again that they belong to, or leave out merge")


def _executor(run: EvaluateRun, prepared: Prepared, placement: Placement) -> Executor:
    if placement.workers == 0:
        torch.set_num_threads(placement.threads)
        keep_freed_memory()
        device = "cuda" if placement.gpu else "cpu"
        return InProcess(ShardEvaluator(run, prepared.subject.net, prepared.test, device), CALLS)
    from afa_dist.runtime.ray_evaluate import on_ray  # imports Ray, after the session's settings

    return on_ray(run, prepared, placement)


def _finite(table: pa.Table) -> int:
    """How many adversarial images have a margin."""
    margins = table["adv_margin"]
    return len(margins) - margins.null_count


@contextlib.contextmanager
def stop_of(run: ShardedRun) -> Iterator[Stop]:
    """Inside, gives the reason to end: a signal, or the time limit."""
    deadline = time.monotonic() + run.time_limit if run.time_limit else float("inf")
    with heed_signals() as note:
        yield lambda: note.reason or ("time_limit" if time.monotonic() > deadline else "")
