"""A cluster that starts machines for whoever asks: Ray's own autoscaler, with nodes on this machine for a cloud's."""

import pytest

from afa_dist.config import ScalingConfig
from afa_dist.errors import UserError
from tests.nodes import FakeCloud, nodes_of
from tests.runtime.test_elastic import Watched, job


def test_what_machines_to_ask_for_must_be_said():
    with pytest.raises(UserError) as caught:
        ScalingConfig(autoscale=True)
    assert [problem.where for problem in caught.value.problems] == ["workers", "device"]
    ScalingConfig(autoscale=True, workers="2..8", device="gpu")


@pytest.fixture(scope="module")
def cloud():
    with nodes_of(FakeCloud, most=2) as cluster:
        yield cluster


@pytest.mark.ray
@pytest.mark.slow
def test_a_run_starts_on_no_machine_and_gets_all_that_it_can_use(cloud, tmp_path):
    options = ["--scaling.workers", "1..4", "--scaling.autoscale", "--scaling.resize_seconds", "1"]
    run = Watched(tmp_path, job(tmp_path, 400, *options, env=cloud.env))
    run.wait(lambda: run.groups()[-1:] and run.groups()[-1][1] == 2 and run.last_step() > 30)  # four are not to be had
    run.process.terminate()
    assert run.process.wait(timeout=60) == 75, run.log.read_text()
    assert "machines for 4 are asked for" in run.log.read_text()
    assert run.directory.checkpoints.newest().step == run.last_step()
