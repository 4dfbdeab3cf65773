"""Real gloo processes, each with a different part of the batch, against one process with all of it."""

import contextlib
import dataclasses
import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file, save_file

from afa_dist.config import (
    AwpConfig,
    ClassifierAttackConfig,
    ContrastiveAttackConfig,
    DiffusionRun,
    FinetuneRun,
    GeneratedConfig,
    GeneratedLabelsConfig,
    MethodConfig,
    ModelConfig,
    PretrainRun,
    UNetConfig,
)
from afa_dist.data.loader import Batch
from afa_dist.distributed import World, join_group
from afa_dist.models.build import DataShape
from afa_dist.training.awp import worst_weights
from afa_dist.training.job import make_step, wrap

GLOBAL_BATCH = 64
SHAPE = DataShape(channels=1, mean=(0.3,), std=(0.4,), classes=tuple("abcde"), size=(8, 8))


def pretrain(norm="group", bn="eval", **method):
    return PretrainRun(
        model=ModelConfig(width=8, norm=norm, projection_dim=16),
        method=MethodConfig(**method),
        attack=ContrastiveAttackConfig(eps=0.1, steps=2, step_size=0.05, bn=bn),
    )


CASES = {
    "clean keys": pretrain(),
    "adversarial keys": pretrain(keys="adversarial"),
    "both keys and anchors, negatives": pretrain(keys="both", anchors="both", denominator="negatives", own_copy="excluded"),
    "penultimate": pretrain(layer="penultimate"),
    "global batch norm": pretrain(norm="batch"),
    "batch norm in the attack": pretrain(norm="batch", bn="batch", keys="both"),
    "fine-tuning": FinetuneRun(
        mode="full",
        model=ModelConfig(width=8, norm="group"),
        attack=ClassifierAttackConfig(eps=0.1, steps=2, step_size=0.05),
    ),
    "joint": FinetuneRun(
        mode="full",
        objective="trades",
        afa_weight=0.5,
        method=MethodConfig(keys="both", anchors="both"),
        model=ModelConfig(width=8, norm="batch", projection_dim=16),
        attack=ClassifierAttackConfig(eps=0.1, steps=2, step_size=0.05),
        awp=AwpConfig(gamma=0.01),
    ),
    "joint, one clean pass": FinetuneRun(
        mode="full",
        objective="trades",
        afa_weight=0.5,
        model=ModelConfig(width=8, norm="group", projection_dim=16),
        attack=ClassifierAttackConfig(eps=0.1, steps=2, step_size=0.05),
        awp=AwpConfig(gamma=0.01),
    ),
    "generated images count less": FinetuneRun(
        mode="full",
        objective="trades",
        afa_weight=0.5,
        label_smoothing=0.1,
        model=ModelConfig(width=8, norm="group", projection_dim=16),
        attack=ClassifierAttackConfig(eps=0.1, steps=2, step_size=0.05),
        generated=GeneratedLabelsConfig(weight=0.3, label_smoothing=0.3),
    ),
    "generated images count more": dataclasses.replace(pretrain(anchors="both"), generated=GeneratedConfig(weight=2)),
    "diffusion": DiffusionRun(network=UNetConfig(channels=8, multipliers=(1, 2), layers=1, attention=(4,), dropout=0.2)),
}


def global_batch(step):
    g = torch.Generator().manual_seed(100 + step)
    x = torch.rand(GLOBAL_BATCH, 1, 8, 8, generator=g, dtype=torch.float64)
    # Very unequal classes: the last two live in the second half alone, so some ranks have no positive at hand.
    y = torch.cat([torch.randint(0, 3, (32,), generator=g), torch.randint(1, 5, (32,), generator=g).clamp(min=2)])
    return x, y


def perturbed(run, step, batch, x_adv):
    if run.awp.gamma == 0:
        return contextlib.nullcontext()
    return worst_weights(list(step.net.parameters()), step.net, lambda: step.loss(batch, x_adv).loss, run.awp.gamma)


def gradient(run, step, batch, index, optimiser):
    """The loss of a step, its gradient left in the parameters."""
    if isinstance(run, DiffusionRun):
        output = step.loss(batch, index)
        optimiser.zero_grad()
        output.loss.backward()
        return output.loss
    x_adv = step.attack(batch, index, run.attack.eps)
    with perturbed(run, step, batch, x_adv):
        output = step.loss(batch, x_adv)
        optimiser.zero_grad()
        output.loss.backward()
    return output.loss


def three_steps(run, world):
    """Losses (global mean), first gradients and weights after three SGD steps, by name."""
    step = make_step(run, SHAPE, World())  # built without DDP, then doubled and wrapped
    step.net.double()
    step.forward = wrap(step.forward, world) if world.size > 1 else step.forward
    optimiser = torch.optim.SGD(step.parameters(), lr=0.1, momentum=0.9)
    out = {}
    for index in range(3):
        x, y = global_batch(index)
        share = GLOBAL_BATCH // world.size
        part = slice(world.rank * share, (world.rank + 1) * share)
        step.train_mode()
        generated_G = torch.arange(GLOBAL_BATCH) < 20  # some workers have none
        batch = Batch(x[part], y, part.start, generated_G=generated_G)
        loss = gradient(run, step, batch, index, optimiser).detach().clone()
        out[f"loss{index}"] = world.sum_(loss) / world.size
        if index == 0:
            out |= {f"grad.{n}": p.grad.clone() for n, p in step.net.named_parameters() if p.grad is not None}
        optimiser.step()
    return out | {f"weight.{n}": v.detach().clone().double() for n, v in step.net.state_dict().items()}


def worker(rank, size, folder):
    os.environ.update(MASTER_ADDR="127.0.0.1", OMP_NUM_THREADS="1")
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / f"store{size}"), size)
    join_group("gloo", rank=rank, world_size=size, store=store)
    for name, run in CASES.items():
        result = three_steps(run, World.current())
        save_file(result, folder / f"{name}-{size}-{rank}.safetensors")


@pytest.fixture(scope="module")
def single():
    return {name: three_steps(run, World()) for name, run in CASES.items()}


@pytest.mark.parametrize("size", [2, 4])
def test_ranks_together_equal_one_process(size, single, tmp_path: Path):
    # spawn raises here if a process fails or does not start; nothing is skipped.
    mp.spawn(worker, args=(size, tmp_path), nprocs=size)
    for name, want in single.items():
        for rank in range(size):
            got = load_file(tmp_path / f"{name}-{size}-{rank}.safetensors")
            assert got.keys() == want.keys()
            assert any(key.startswith("grad.") for key in got)
            for key, value in want.items():
                torch.testing.assert_close(
                    got[key], value, rtol=1e-9, atol=1e-9, msg=lambda m, name=name, key=key: f"{name}: {key}: {m}"
                )


def test_first_step_moves_every_weight(single):
    """The comparison above would be empty if nothing was trained."""
    for name, result in single.items():
        dead = [key for key, value in result.items() if key.startswith("grad.") and value.abs().max() == 0]
        assert not dead, (name, dead)
