"""A step that is not finite moves nothing: it ends the run or is left out, on all workers alike."""

import dataclasses
import itertools
import json
import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file, save_file

from afa_dist.config import CheckpointConfig, ModelConfig, OptimiserConfig
from afa_dist.data.catalogue import load_splits
from afa_dist.distributed import World, join_group
from afa_dist.errors import TrainingError
from afa_dist.training.job import data_shape, make_step, wrap
from afa_dist.training.robust import RobustTrainer
from afa_dist.training.run_dir import RunDirectory
from tests.training.test_resume import RUNS

RUN = dataclasses.replace(
    RUNS["joint"],
    model=ModelConfig(width=8, projection_dim=16, norm="batch"),
    optimiser=OptimiserConfig(not_finite="skip", max_skipped=2),
    checkpoint=CheckpointConfig(every_steps=2),
)


def trainer(run, splits, folder, world=World(), bad_steps=(), rank=0):
    """A trainer whose loss is NaN in `bad_steps`, on one rank, after its forward pass."""
    directory = RunDirectory(folder)
    if world.is_main:
        directory.create(run, {"start": "abc"})
    step = make_step(run, data_shape(splits), World())
    if world.size > 1:
        step.forward = wrap(step.forward, world)
    made = RobustTrainer(step, run, splits, directory, world, on_row=lambda row: None)
    original = step.loss

    def loss(batch, x_adv):
        out = original(batch, x_adv)
        bad = made.done in bad_steps and world.rank == rank
        return dataclasses.replace(out, loss=out.loss * torch.nan) if bad else out

    step.loss = loss
    return made


def state_of(made):
    """Weights, buffers, momentum and average, copied."""
    average = {f"average {n}": v for n, v in made.average.weights.items()} if made.average else {}
    momentum = {str(i): s["momentum_buffer"] for i, s in enumerate(made.optimiser.state.values()) if s}
    return {name: value.clone() for name, value in {**made.step.net.state_dict(), **momentum, **average}.items()}


@pytest.fixture(scope="module")
def splits():
    return load_splits(RUN.data)


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_step_that_is_left_out_leaves_nothing_behind(splits, tmp_path):
    """Neither weights nor momentum nor averages, and BatchNorm's statistics are taken back; the next images are others."""
    made = trainer(RUN, splits, tmp_path / "run", bad_steps=(1,))
    made.train_step()
    before = state_of(made)
    made.train_step()
    assert equal(state_of(made), before)
    assert (made.done, made.not_finite.skipped) == (2, 1)
    made.train_step()
    assert not equal(state_of(made), before)
    noted = json.loads((tmp_path / "run/not-finite-00000001.json").read_text())
    assert noted["loss of each worker"] == ["nan"]
    assert noted["images (rows of the training part)"] == made.loader.indices(1).tolist()


def test_too_many_are_too_many_also_over_a_restart(splits, tmp_path):
    first = trainer(RUN, splits, tmp_path / "run", bad_steps=(1, 3))
    for _ in range(4):
        first.train_step()
    first.save()
    again = trainer(RUN, splits, tmp_path / "run", bad_steps=(4, 5))
    again.resume()
    assert again.not_finite.skipped == 2
    with pytest.raises(TrainingError, match=r"max_skipped = 2 such steps were left out"):
        again.train_step()


def test_by_default_it_ends_the_run_and_moves_no_weight(splits, tmp_path):
    run = dataclasses.replace(RUN, optimiser=OptimiserConfig())
    made = trainer(run, splits, tmp_path / "run", bad_steps=(1,))
    made.train_step()
    weights = [p.clone() for p in made.step.net.parameters()]
    with pytest.raises(TrainingError, match=r"step 1: .*not finite \(loss: worker 0: nan; .*not_finite skip"):
        made.train_step()
    assert all(torch.equal(a, b) for a, b in zip(weights, made.step.net.parameters(), strict=True))
    assert made.done == 1


def test_weights_that_are_not_finite_are_not_saved(splits, tmp_path):
    made = trainer(RUN, splits, tmp_path / "run")
    made.train_step()
    made.save()
    with torch.no_grad():
        made.step.net.linear.weight[0, 0] = torch.inf
    made.done += 1
    with pytest.raises(TrainingError, match=r"linear.weight has values that are not finite, nothing was saved"):
        made.save()
    assert made.directory.checkpoints.steps() == [1]


def worker(rank, size, folder):
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    join_group("gloo", rank=rank, world_size=size, store=dist.FileStore(f"{folder}/store", size))
    made = trainer(RUN, load_splits(RUN.data), Path(folder) / "run", World.current(), bad_steps=(1, 2, 3), rank=1)
    with pytest.raises(TrainingError, match=r"worker 0: [0-9.]+, worker 1: nan"):
        for _ in range(5):
            made.train_step()
            save_file(state_of(made), Path(folder) / f"{rank}-{made.done}.safetensors")
    assert made.done == 3


def test_one_worker_is_enough_to_leave_it_out_on_all(splits, tmp_path):
    """Rank 1 alone sees NaN in steps 1, 2 and 3: two are left out, the third ends the run, everywhere."""
    mp.spawn(worker, args=(2, str(tmp_path)), nprocs=2)
    first = load_file(tmp_path / "0-1.safetensors")
    for rank, done in itertools.product((0, 1), (1, 2, 3)):
        assert equal(load_file(tmp_path / f"{rank}-{done}.safetensors"), first)
