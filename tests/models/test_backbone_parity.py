"""Backbones of other packages in two real gloo processes, each with half of the batch, against one with all of it."""

import importlib.util
import os

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file, save_file

from afa_dist.config import ClassifierAttackConfig, FinetuneRun, ModelConfig, ScalingConfig
from afa_dist.data.loader import Batch
from afa_dist.distributed import World, join_group
from afa_dist.models.build import DataShape
from afa_dist.training.job import make_step, wrap

HAS_TIMM = importlib.util.find_spec("timm") is not None
# timm's has layers of all kinds that are changed: BatchNormAct2d, dropout, stochastic depth.
ARCHS = ["wrn-10-1", "timm:test_efficientnet" if HAS_TIMM else "torchvision:mobilenet_v3_small"]
IMAGES, SIZE = 32, 2
SHAPE = DataShape(1, (0.3,), (0.4,), tuple("abcde"), (32, 32))


def one_step(arch, world):
    """Loss (global mean), gradients, and weights and statistics after one adversarial step."""
    run = FinetuneRun(
        mode="full",
        model=ModelConfig(arch=arch),
        attack=ClassifierAttackConfig(eps=0.02, steps=1, step_size=0.01, bn="batch"),
        scaling=ScalingConfig(precision="fp64"),
    )
    step = make_step(run, SHAPE, World())
    if world.size > 1:
        step.forward = wrap(step.forward, world)
    g = torch.Generator().manual_seed(1)
    x = torch.rand(IMAGES, 1, 32, 32, generator=g, dtype=torch.float64)
    y = torch.randint(0, 5, (IMAGES,), generator=g)
    share = IMAGES // world.size
    part = slice(world.rank * share, (world.rank + 1) * share)
    step.train_mode()
    batch = Batch(x[part], y, part.start)
    output = step.loss(batch, step.attack(batch, 0, run.attack.eps))
    output.loss.backward()
    out = {"loss": world.sum_(output.loss.detach().clone()) / world.size}
    out |= {f"grad.{name}": p.grad for name, p in step.net.named_parameters() if p.requires_grad}
    return out | {f"state.{name}": value.detach().clone() for name, value in step.net.state_dict().items()}


def worker(rank, folder):
    os.environ.update(MASTER_ADDR="127.0.0.1", OMP_NUM_THREADS="1")
    torch.set_num_threads(1)
    join_group("gloo", rank=rank, world_size=SIZE, store=dist.FileStore(str(folder / "store"), SIZE))
    for index, arch in enumerate(ARCHS):
        save_file(one_step(arch, World.current()), folder / f"{index}-{rank}.safetensors")


def test_two_processes_equal_one(tmp_path):
    mp.spawn(worker, args=(tmp_path,), nprocs=SIZE)
    for index, arch in enumerate(ARCHS):
        want = one_step(arch, World())
        assert any(key.startswith("grad.") and value.abs().max() > 0 for key, value in want.items())
        for rank in range(SIZE):
            got = load_file(tmp_path / f"{index}-{rank}.safetensors")
            assert got.keys() == want.keys()
            for key, value in want.items():
                torch.testing.assert_close(
                    got[key], value, rtol=1e-7, atol=1e-9, msg=lambda m, arch=arch, key=key: f"{arch}: {key}: {m}"
                )
