"""Shared by all tests: one thread, no foreign cluster, one Ray cluster for the whole session."""

import os

# A cluster that the developer happens to address must not take part.
for name in ("RAY_ADDRESS", "RAY_JOB_CONFIG_JSON_ENV_VAR", "WORLD_SIZE", "RANK"):
    os.environ.pop(name, None)

import pytest
import torch

from afa_dist.config import DataConfig
from afa_dist.data.catalogue import DataSplits, load_splits
from afa_dist.runtime.cluster import connected
from afa_dist.runtime.placement import Placement

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def digits() -> DataSplits:
    return load_splits(DataConfig())


@pytest.fixture(scope="session")
def ray_cluster():
    """A token-protected cluster on this machine, shared by all tests that need Ray."""
    with connected(Placement(workers=2, gpu=False, threads=1, cluster=None)):
        yield


@pytest.fixture(scope="session")
def trained(digits, tmp_path_factory):
    """A small classifier of digits with some robustness, trained in a few seconds."""
    from afa_dist.config import FinetuneRun, ModelConfig, OptimiserConfig, ScheduleConfig, TrainAttackConfig, ValidationConfig
    from afa_dist.distributed import World
    from afa_dist.models.export import load_classifier
    from afa_dist.training.job import train
    from afa_dist.training.run_dir import RunDirectory

    run = FinetuneRun(
        mode="full",
        model=ModelConfig(width=8, norm="group"),
        attack=TrainAttackConfig(eps=0.1, steps=2, step_size=0.075),
        optimiser=OptimiserConfig(lr=0.1),
        schedule=ScheduleConfig(epochs=6, batch_size=64, warmup_epochs=1),
        validation=ValidationConfig(every_epochs=6, steps=2),
    )
    torch.set_num_threads(1)
    directory = RunDirectory(tmp_path_factory.mktemp("trained") / "run")
    directory.create(run, {})
    train(run, digits, directory, World(), on_row=lambda row: None)
    return load_classifier(directory.model).net
