"""Training starts from a file with published weights, and never opens a pickle."""

import pytest
import torch
from safetensors.torch import save_file

from afa_dist.config import FinetuneRun, ModelConfig
from afa_dist.data.catalogue import DataSplits
from afa_dist.distributed import World
from afa_dist.models.build import build_classifier
from afa_dist.training.job import data_shape, make_step
from afa_dist.training.preflight import directory_problems, init_problems

MODEL = ModelConfig(arch="wrn-10-1", normalise="none")


def published(digits: DataSplits):
    """Weights under the names of the public definition, as its users save them."""
    torch.manual_seed(5)
    net = build_classifier(MODEL, data_shape(digits))
    weights = {f"module.{name}": value for name, value in net.encoder.backbone.state_dict().items()}
    return net, weights | {f"module.fc.{name}": value for name, value in net.linear.state_dict().items()}


def problems(run, digits):
    return [str(problem) for problem in (*directory_problems(run), *init_problems(run, digits))]


@pytest.mark.parametrize("mode", ["linear", "full"])
def test_a_run_starts_from_published_weights(mode, digits, tmp_path):
    net, weights = published(digits)
    save_file(weights, tmp_path / "w.safetensors")
    run = FinetuneRun(model=MODEL, mode=mode, init=str(tmp_path / "w.safetensors"), runs_dir=str(tmp_path))
    assert problems(run, digits) == []
    step = make_step(run, data_shape(digits), World())
    x = torch.rand(4, 1, 8, 8)
    torch.testing.assert_close(step.net.eval()(x), net.eval()(x))


def test_a_pickle_is_refused_without_being_opened(digits, tmp_path):
    bomb = tmp_path / "w.pt"
    bomb.write_bytes(b"cos\nsystem\n(S'touch " + str(tmp_path / "pwned").encode() + b"'\ntR.")
    run = FinetuneRun(model=MODEL, mode="full", init=str(bomb), runs_dir=str(tmp_path))
    (message,) = problems(run, digits)
    assert message.startswith("init: ") and "pickles" in message and "safetensors" in message
    assert not (tmp_path / "pwned").exists()


def test_weights_of_another_network_are_refused(digits, tmp_path):
    _, weights = published(digits)
    save_file(weights, tmp_path / "w.safetensors")
    other = ModelConfig(arch="wrn-16-1", normalise="none")
    run = FinetuneRun(model=other, mode="full", init=str(tmp_path / "w.safetensors"), runs_dir=str(tmp_path))
    found = problems(run, digits)
    assert found and all(message.startswith("init: ") for message in found)
