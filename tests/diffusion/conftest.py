"""A small model to draw from, with weights as they were drawn: what it draws is noise, and the same noise every time."""

import pytest
import torch

from afa_dist.config import DiffusionRun, UNetConfig
from afa_dist.diffusion.denoiser import build_denoiser
from afa_dist.diffusion.export import save_pipeline
from afa_dist.training.job import data_shape

NETWORK = UNetConfig(channels=8, multipliers=(1, 2), layers=1, attention=(), head_channels=8)


@pytest.fixture(scope="session")
def model(digits, tmp_path_factory):
    """The folder of a pipeline that knows the digits."""
    torch.manual_seed(0)
    run = DiffusionRun(network=NETWORK)
    net = build_denoiser(run.network, run.edm, data_shape(digits))
    folder = tmp_path_factory.mktemp("diffusion") / "model"
    save_pipeline(folder, net.state_dict(), run, digits, data_shape(digits))
    return folder
