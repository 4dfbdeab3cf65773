"""A compiled network computes what it does uncompiled, and keeps the names of its weights."""

import dataclasses

import pytest
import torch

from afa_dist.config import ContrastiveAttackConfig, ModelConfig, PretrainRun, ScalingConfig
from afa_dist.data.loader import Batch
from afa_dist.distributed import World
from afa_dist.models.build import DataShape
from afa_dist.training.job import make_step

RUN = PretrainRun(
    model=ModelConfig(width=8, projection_dim=16), attack=ContrastiveAttackConfig(eps=0.1, steps=2), scaling=ScalingConfig()
)


@pytest.mark.slow
def test_compiled_training_equals_eager_training():
    """Attack in evaluation mode, outer pass in training mode: images, loss, gradients, statistics of BatchNorm."""
    x = torch.rand(32, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    batch = Batch(x, torch.arange(32) % 3, 0)
    found = {}
    for compile in ("off", "on"):
        run = dataclasses.replace(RUN, scaling=ScalingConfig(compile=compile))
        step = make_step(run, DataShape(1, (0.3,), (0.4,), tuple("abc")), World())
        torch._dynamo.reset()
        step.train_mode()
        x_adv = step.attack(batch, 0, 0.1)
        loss = step.loss(batch, x_adv).loss
        loss.backward()
        gradients = {f"grad {name}": p.grad for name, p in step.net.named_parameters()}
        found[compile] = {"x_adv": x_adv, "loss": loss.detach(), **gradients, **step.net.state_dict()}
    assert found["on"].keys() == found["off"].keys()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 2  # it was compiled, for both modes
    assert (found["on"]["x_adv"] != found["off"]["x_adv"]).float().mean() < 0.01  # signs of gradients near zero
    for name, value in found["off"].items():
        if name != "x_adv":
            torch.testing.assert_close(found["on"][name], value, rtol=1e-3, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")
