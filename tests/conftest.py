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
