"""Training on Ray Train: groups of workers, each replaced when it breaks, when its nodes leave or when there is more room.

Workers resume from the run directory's own checkpoints; it must be a folder that all nodes share, or lie at an address.
Ray's storage beneath it holds only Ray's bookkeeping. Images come from the driver where they fit into Ray's object store.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any

import ray
from ray import train as ray_train
from ray.train.torch import TorchTrainer

from afa_dist.address import below, is_address
from afa_dist.config import TrainingRun
from afa_dist.data.catalogue import DataSplits
from afa_dist.errors import Stopped, TrainingError
from afa_dist.runtime.board import Board
from afa_dist.runtime.demand import Demand, bundle_of
from afa_dist.runtime.elastic import Resources, Sizes, free_nodes, wait_for_room
from afa_dist.runtime.paths import absolute
from afa_dist.runtime.placement import Placement
from afa_dist.runtime.ray_fit import fit_interruptibly, reason_of, storage_of
from afa_dist.runtime.ray_worker import work
from afa_dist.runtime.sharing import share
from afa_dist.training.mirror import UNANSWERED, Mirror
from afa_dist.training.recorder import OnRow
from afa_dist.training.run_dir import RunDirectory
from afa_dist.training.warned import Source, heed_signals

MOST_UNSTARTED = 5
"""So many elastic groups in a row may fail to start: Ray's view of the nodes may be old, or others may take them first."""

MORE_ROOM = "room for more workers"

START_SECONDS = 30
"""How long an elastic group may take to start before the nodes are counted again: Ray's view of them may have been old."""


def fit(
    run: TrainingRun,
    splits: DataSplits,
    directory: RunDirectory,
    placement: Placement,
    start: str,
    on_row: OnRow,
    lost: Source = str,
) -> dict[str, Any]:
    """Train on Ray workers and return the run's summary.

    start: the identity of this start in provenance.json, by which workers recognise the run directory. lost: why the run is
    no longer this start's own, if so.

    Raises:
        Stopped: this process was warned, or the cluster and there is no room elsewhere; all is saved.
        TrainingError: the loop gave up, or more workers were lost than scaling.max_failures.
    """
    config = {
        "run": absolute(run),
        "directory": str(directory.path),
        "start": start,
        "images": share(splits.parts()),
        "fingerprint": directory.last_start()["data_fingerprint"],
    }
    board = Board(start)
    try:
        with board.shown(on_row), heed_signals() as signalled:
            groups = Groups(run, directory, config, board, placement, lambda: signalled() or lost())
            return groups.run(groups.place(wanted=placement.workers) if run.scaling.elastic else placement)
    finally:
        board.clear()


class Groups:
    """The groups of workers of one start, one after another."""

    def __init__(
        self,
        run: TrainingRun,
        directory: RunDirectory,
        config: dict[str, Any],
        board: Board,
        placement: Placement,
        signalled: Source,
    ) -> None:
        self.run_config = run
        self.directory = directory
        self.config = config
        self.board = board
        self.sizes = Sizes.of(run, placement)
        self.cluster = placement.cluster
        self.signalled = signalled
        autoscale = run.scaling.autoscale and run.scaling.elastic and placement.cluster is not None
        self.demand = Demand(bundle_of(run.scaling.threads, placement.gpu), self.sizes.counts[-1] if autoscale else 0)
        self.leaving: set[str] = set()
        """Nodes that Ray said are taken away."""
        self.failures = 0
        self.unstarted = 0
        """Groups in a row that did not get as far as to train."""
        self._groups_before = 0
        self._looked = time.monotonic()

    def run(self, placement: Placement) -> dict[str, Any]:
        """Train, in as many groups as it takes; returns the summary."""
        try:
            return self._run(placement)
        finally:
            self.demand.release()

    def _run(self, placement: Placement) -> dict[str, Any]:
        for number in itertools.count():
            try:
                outcome = self._train(placement, f"{self.config['start']}.{number}")
            except ray_train.TrainingFailedError as error:
                if isinstance(error, ray_train.PreemptionError):
                    self.leaving |= set(error.preemption_info.preempted_node_ids)
                reason = reason_of(error, self.board.take_troubles())
                placement = self._after_failure(placement, reason, isinstance(error, ray_train.WorkerGroupError))
                continue
            self.unstarted = 0
            if "summary" in outcome:
                return dict(outcome["summary"])
            if "failure" in outcome:
                raise TrainingError(outcome["failure"])
            placement = self._after_stop(placement, outcome)
        raise AssertionError

    def place(self, wanted: int = 0, sizes: Sizes | None = None) -> Placement:
        """Where the next group goes, if it should have one of other `sizes` than all that the run may have.

        Raises:
            Stopped: this process was warned meanwhile.
            TrainingError: there is no room for the fewest workers within scaling.wait_seconds.
        """
        seconds = self.run_config.scaling.wait_seconds
        sizes = sizes or self.sizes
        fits = sizes.fitting(free_nodes(self.leaving))
        if fits < max(1, wanted):
            self.demand.ask()
        if not fits:
            warnings.warn(f"no room for {_counted(sizes.counts[0])} now; waiting for it", stacklevel=2)
        nodes = wait_for_room(sizes, self._look, seconds, wanted)
        placement = sizes.place(nodes, self.cluster) if nodes else None
        if placement is None:
            what = f"there was no room for {_counted(sizes.counts[0])} within {seconds:g} s (scaling.wait_seconds)"
            raise TrainingError(f"{what}. {self._rest()}")
        return placement

    def _look(self) -> Sequence[Resources]:
        if reason := self.signalled():
            raise Stopped(reason)
        return self._nodes()

    def _nodes(self) -> Sequence[Resources]:
        return [*free_nodes(self.leaving), *self.demand.as_nodes()]

    def _after_failure(self, placement: Placement, reason: str, lost_worker: bool) -> Placement:
        """Where to go on after a group broke that Ray does not replace.

        Raises:
            TrainingError: it happened too often, or the run is not elastic: then Ray has tried again already.
        """
        scaling = self.run_config.scaling
        started = self.board.groups() > self._groups_before
        self.unstarted = 0 if started else self.unstarted + 1
        self.failures += lost_worker
        if self.unstarted > MOST_UNSTARTED:
            raise TrainingError(f"{self.unstarted} groups of workers in a row did not start: {reason}. {self._rest()}")
        if not scaling.elastic or self.failures > scaling.max_failures:
            tried = f"training stopped after scaling.max_failures = {scaling.max_failures} restarts"
            raise TrainingError(f"{tried}: {reason}. {self._rest()}")
        self.directory.note_trouble(reason)
        # What could not start is not tried again at once: others may hold what looked free.
        placement = (
            self.place(wanted=placement.workers) if started else self.place(sizes=self.sizes.below(placement.workers))
        )
        self._looked = time.monotonic() + (0 if started else 10 * scaling.resize_seconds)
        warnings.warn(f"{reason}; going on with {_counted(placement.workers)}. {self._rest()}", stacklevel=2)
        return placement

    def _after_stop(self, placement: Placement, outcome: dict[str, Any]) -> Placement:
        """Where to go on after all workers stopped with everything saved.

        Raises:
            Stopped: this process was warned, or the nodes are taken away and there is no room on others.
        """
        reason = self.signalled() or outcome["stopped"]
        self.leaving |= set(outcome["leaving"])
        more = reason == MORE_ROOM
        if self.signalled() or ray.get_runtime_context().get_node_id() in self.leaving or not (more or self.leaving):
            raise Stopped(reason, outcome["lacking"])
        moved: Placement | None
        if more:
            moved = self.place(wanted=placement.workers + 1)
        else:
            # Whoever starts machines replaces those that are taken away; others have none to wait for.
            seconds = self.run_config.scaling.wait_seconds if self.demand.most else 0
            self.demand.ask()
            nodes = wait_for_room(self.sizes, self._look, seconds, wanted=placement.workers)
            moved = self.sizes.place(nodes, self.cluster) if nodes else None
        if moved is None:
            raise Stopped(reason, outcome["lacking"])
        where = "" if more else "on the other nodes "
        warnings.warn(f"{reason}; all is saved, going on {where}with {_counted(moved.workers)}", stacklevel=2)
        return moved

    def _train(self, placement: Placement, group: str) -> dict[str, Any]:
        """One group of workers, to whatever end."""
        elastic = self.run_config.scaling.elastic
        if elastic:
            os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(START_SECONDS))
        self._groups_before = self.board.groups()
        trainer = TorchTrainer(
            work,
            train_loop_config={**self.config, "threads": placement.threads, "group": group},
            scaling_config=ray_train.ScalingConfig(
                num_workers=placement.workers,
                use_gpu=placement.gpu,
                resources_per_worker={"CPU": placement.threads, **({"GPU": 1} if placement.gpu else {})},
            ),
            run_config=ray_train.RunConfig(
                name="ray",
                **storage_of(self.run_config, self.directory),
                failure_config=ray_train.FailureConfig(
                    max_failures=0 if elastic else self.run_config.scaling.max_failures,
                    controller_failure_limit=0 if elastic else -1,
                    max_preemption_failures=0 if elastic else -1,
                ),
            ),
        )
        self.demand.release()
        return fit_interruptibly(trainer, partial(self._meanwhile, placement, group))

    def _rest(self) -> str:
        """What is left when it ends here."""
        saved = self.directory.checkpoints.steps()
        if is_address(self.run_config.runs_dir):  # worker 0 may be on another machine
            with contextlib.suppress(*UNANSWERED):
                saved = Mirror(below(self.run_config.runs_dir, self.run_config.name)).steps()
        return f"The same command continues from step {saved[-1]}" if saved else "Nothing had been saved yet"

    def _meanwhile(self, placement: Placement, group: str) -> None:
        """Tell the workers of a signal that only this process got, or that there is room for more of them."""
        reason = self.signalled() or (MORE_ROOM if self._can_grow(placement) else "")
        if reason:
            self.board.ask_to_stop(group, reason)

    def _can_grow(self, placement: Placement) -> bool:
        scaling = self.run_config.scaling
        if not scaling.elastic or time.monotonic() - self._looked < scaling.resize_seconds:
            return False
        self._looked = time.monotonic()
        with contextlib.suppress(ray.exceptions.RayError, OSError, RuntimeError):  # it can be looked for later as well
            if self.board.groups() == self._groups_before:
                return False  # what this group is about to take still counts as free
            self.demand.ask(beside=placement.workers)
            return self.sizes.fitting(self._nodes(), already=placement.workers) > placement.workers
        return False


def _counted(workers: int) -> str:
    return f"{workers} worker{'s' if workers > 1 else ''}"
