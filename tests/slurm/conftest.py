"""One private Slurm for all tests here."""

import os
import tempfile
from pathlib import Path

import pytest

from tests.slurm.desk import Desk
from tests.slurm.private import PrivateSlurm


@pytest.fixture(scope="session")
def slurm():
    """Two nodes, accounting, and nothing in common with a Slurm of this machine; it must be possible to start it."""
    with tempfile.TemporaryDirectory(prefix="afa-slurm-") as folder:
        cluster = PrivateSlurm(Path(folder))
        cluster.up()
        try:
            yield cluster
        finally:
            cluster.down()


@pytest.fixture
def desk(slurm, tmp_path):
    return Desk(tmp_path, clean(slurm.environment))


def clean(environment):
    """Without what other tests' Ray left in it."""
    return {name: value for name, value in environment.items() if not name.startswith("RAY_")} | {
        "PATH": os.environ["PATH"]
    }
