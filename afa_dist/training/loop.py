"""The training loop: the same for whatever is trained, for one process and for many."""

from __future__ import annotations

import contextlib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from afa_dist.config import TrainingRun
from afa_dist.data.augment import Augmentation
from afa_dist.data.catalogue import DataSplits
from afa_dist.data.loader import Batch, Loader, placed
from afa_dist.distributed import World, beat
from afa_dist.errors import Stopped, TrainingError
from afa_dist.training.averaging import WeightAverage
from afa_dist.training.checkpoint import Checkpoint, first_not_finite
from afa_dist.training.metrics import Meter
from afa_dist.training.not_finite import ADVICE, Incident, NotFinite
from afa_dist.training.optimiser import build_optimiser, load_state, set_lr, state_tensors
from afa_dist.training.recorder import OnRow
from afa_dist.training.run_dir import RunDirectory
from afa_dist.training.schedule import Schedule
from afa_dist.training.selection import Selection
from afa_dist.training.step import StepOutput, Trained
from afa_dist.training.storage import Storage
from afa_dist.training.warned import Warnings


class Trainer(ABC):
    """Runs a stage from wherever its checkpoints say to its last step.

    Every worker makes one and calls `run`; the main worker alone writes. Subclasses say what a step's gradient is, and how
    held-out images are measured.

    two_views: whether each image is augmented by two draws.
    """

    def __init__(
        self,
        step: Trained,
        run: TrainingRun,
        splits: DataSplits,
        directory: RunDirectory,
        world: World,
        on_row: OnRow,
        warnings: Warnings | None = None,
        *,
        two_views: bool = False,
    ) -> None:
        assert (run.data.generated is None) == (splits.generated is None)
        self.step = step
        self.config = run
        self.splits = splits
        self.directory = directory
        self.world = world
        self.warnings = warnings or Warnings()
        augmentation = Augmentation.of(run.data)
        # Images that are changed one by one are changed on the CPU.
        home = world.device if augmentation.each is None else torch.device("cpu")
        dtype = next(step.net.parameters()).dtype
        self.loader = Loader(
            placed(splits.train, home),
            run.schedule.batch_size,
            run.seed,
            augmentation,
            world,
            dtype,
            two_views,
            placed(splits.generated, home) if splits.generated is not None else None,
            run.data.generated_fraction,
        )
        self.schedule = Schedule(run.schedule, run.optimiser.lr, self.loader.steps_per_epoch)
        self.named = [(name, p) for name, p in step.net.named_parameters() if p.requires_grad]
        self.optimiser = build_optimiser(self.named, run.optimiser)
        self.average = WeightAverage(self.named, run.ema.decay) if run.ema.decay else None
        self.averaged: tuple[int, dict[str, torch.Tensor]] = (-1, {})
        """The averaged network as it was at a step, buffers and all: what was validated is what is saved."""
        self.meter = Meter(world)
        self.not_finite = NotFinite(step.net, run.optimiser, directory, world)
        self.storage = Storage(run, directory, world, on_row)
        self.selection = self.new_selection()
        self.done = 0
        """Optimiser steps behind us."""

    @abstractmethod
    def new_selection(self) -> Selection:
        """By what checkpoints are chosen, with nothing measured yet."""

    @abstractmethod
    def gradient(self, batch: Batch, index: int) -> StepOutput:
        """The loss of step `index` on `batch`; its gradient is left in the parameters, in place of what was there."""

    @abstractmethod
    def validate(self) -> bool:
        """Measure the held-out images, if there are any; whether the network is one of the best so far, which are kept."""

    def notes(self, index: int) -> dict[str, float]:
        """What changes with the step, for rows of metrics and for whoever looks into a step that went wrong."""
        return {"lr": self.schedule.lr(index)}

    def prepare_average(self) -> None:  # noqa: B027 - networks without BatchNorm need nothing
        """Bring buffers to what the averaged weights need, which are in place."""

    def run(self) -> dict[str, Any]:
        """Train to the end; returns the best and the last validation.

        Raises:
            Stopped: after a warning, with everything saved.
            TrainingError: it cannot go on.
        """
        self.resume()
        try:
            self.run_steps()
        except Stopped as stopped:
            stopped.lacking = self.storage.close()  # whoever goes on elsewhere must know
            raise
        finally:
            self.storage.close()
        best = self.selection.best
        return {
            "steps": self.done,
            "best": {"step": best.step, **best.metrics} if best else None,
            "last": {"step": self.done, **self.selection.last},
            "stopped_early": self.done < self.schedule.total_steps,
        }

    def run_steps(self) -> None:
        """Train, validate, log and save, each when it is due, or when a warning says that there is no more time."""
        self.warnings.agree(self.world)  # it may have come before there was anything to save
        while self.done < self.schedule.total_steps and not self.out_of_patience:
            if self.warnings.reason:
                raise Stopped(self.warnings.reason)
            self.train_step()
            epoch_over = self.done % self.loader.steps_per_epoch == 0
            epoch = self.done // self.loader.steps_per_epoch
            finished = self.done == self.schedule.total_steps
            validating = epoch_over and (epoch % self.config.validation.every_epochs == 0 or finished)
            every_steps = self.config.checkpoint.every_steps
            saving = finished or (epoch_over and epoch % self.config.checkpoint.every_epochs == 0)
            saving = saving or (every_steps > 0 and self.done % every_steps == 0) or self.kept_for_good(self.done)
            # The first step is logged by itself, so that whoever watches soon sees that it runs.
            logging = saving or validating or self.done == 1 or self.done % self.config.tracking.log_every_steps == 0
            if logging:
                self.log_training()
            among_best = validating and self.validate()
            if validating:
                self.warnings.agree(self.world)  # it takes long enough for one to come
            saving = saving or among_best or self.out_of_patience or bool(self.warnings.reason)
            if saving:
                self.save()
            if logging or saving:
                self.storage.check(self.done)

    def kept_for_good(self, step: int) -> bool:
        """Whether the checkpoint of `step` is never deleted, as `checkpoint.keep_every_epochs` says."""
        period = self.config.checkpoint.keep_every_epochs * self.loader.steps_per_epoch
        return period > 0 and step % period == 0

    @property
    def out_of_patience(self) -> bool:
        """Whether so many validations went by without a better one that training ends here."""
        return 0 < self.config.validation.patience <= self.selection.stale

    def train_step(self) -> None:
        """Batch, loss and gradient; clip; all workers agree that it is finite; weights move."""
        index = self.done
        self.not_finite.prepare()
        set_lr(self.optimiser, self.schedule.lr(index))
        self.step.train_mode()
        batch = self.loader.batch(index)
        output = self.gradient(batch, index)
        limit = self.config.optimiser.clip_norm or math.inf
        gradient_norm = nn.utils.clip_grad_norm_([parameter for _, parameter in self.named], limit)
        finite = torch.isfinite(output.loss) & torch.isfinite(gradient_norm)
        if self.warnings.agree(self.world, finite):
            self.optimiser.step()
            if self.average is not None:
                self.average.update(index)
            self.meter.add(output.sums)
            self.done += 1
        else:
            self.leave_out(output.loss, gradient_norm)
        beat()

    def leave_out(self, loss: torch.Tensor, gradient_norm: torch.Tensor) -> None:
        """Go on with the next images, weights as they were, or end the run, as `optimiser.not_finite` says."""
        index = self.done
        mixed = ", of generated ones -1 - row" if self.loader.generated is not None else ""
        notes = {
            "seed": self.config.seed,
            **self.notes(index),
            "workers": self.world.size,
            f"images (rows of the training part{mixed})": self.loader.indices(index).tolist(),
            "checkpoints": self.directory.checkpoints.steps(),
        }
        self.not_finite.answer(Incident(index, loss.detach(), gradient_norm, notes))
        self.done += 1
        self.write_row("skipped", {"skipped": self.not_finite.skipped})

    @contextlib.contextmanager
    def network_to_use(self) -> Iterator[None]:
        """Puts the averaged network, if weights are averaged, in the place of the one that is trained."""
        if self.average is None:
            yield
            return
        net = self.step.net
        with self.average.applied(net):
            if self.averaged[0] == self.done:
                net.load_state_dict(self.averaged[1])
            else:
                self.step.train_mode()
                self.prepare_average()
                self.averaged = (self.done, {name: value.clone() for name, value in net.state_dict().items()})
            yield

    def log_training(self) -> None:
        means = self.meter.take()
        if means:
            self.write_row("train", {**means, **self.notes(self.done - 1)})

    def write_row(self, phase: str, values: Mapping[str, float]) -> None:
        epoch = self.done / self.loader.steps_per_epoch
        row = {"step": self.done, "epoch": round(epoch, 4), "of": self.schedule.total_steps, "phase": phase, **values}
        self.storage.row(row)

    def save(self) -> None:
        with self.network_to_use():  # on every worker: statistics may have to be recomputed
            averaged = self.averaged[1]
        meter = self.meter.state()
        if bad := first_not_finite(self.step.net.state_dict()):
            # Such a checkpoint would be passed over; the last one stays the last.
            raise TrainingError(f"step {self.done}: {bad} has values that are not finite, nothing was saved. {ADVICE}")
        state = {
            **self.selection.state(),
            "skipped": self.not_finite.skipped,
            "meter": meter,
            "seed": self.config.seed,
            "run": self.directory.run_id,
        }
        optimiser = state_tensors(self.optimiser, self.named)
        checkpoint = Checkpoint(self.done, self.step.net.state_dict(), optimiser, state, averaged)
        self.storage.checkpoint(checkpoint, self.kept_for_good)

    def resume(self) -> None:
        """Continue from the newest whole checkpoint, if there is one."""
        checkpoint = self.storage.newest()
        if checkpoint is None:
            return
        self.step.net.load_state_dict(dict(checkpoint.model))
        load_state(self.optimiser, self.named, checkpoint.optimiser)
        self.done = checkpoint.step
        self.selection.load(checkpoint.state)
        self.meter.load(checkpoint.state.get("meter", {}))
        self.not_finite.skipped = checkpoint.state.get("skipped", 0)
        if self.average is not None:
            self.average.load(checkpoint.averaged)
