"""A stand-in for CIFAR-10 of 40 test images, in torchvision's own files, and a classifier of ours that was trained on more.

The images are ten coloured patterns, some too faint to survive an attack, with noise. CIFAR-10 itself cannot be downloaded
where these tests run.

Legend: N images, B of them a batch; C channels, H height, W width.
"""

from pathlib import Path

import torch
import torch.nn.functional as F

from afa_dist.config import ClassifierAttackConfig, DataConfig, FinetuneRun, ModelConfig
from afa_dist.models.build import DataShape, build_classifier
from afa_dist.models.networks import Classifier
from tests.cifar_files import TEN, write_cifar

EPS = 8 / 255
TEST_IMAGES = 40

MODEL = ModelConfig(arch="small-resnet", width=8)
SHAPE = DataShape(3, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), TEN)


def draw(count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """uint8 images (N, 3, 32, 32) and labels (N), as many of each class."""
    patterns = torch.randint(0, 2, (10, 3, 4, 4), generator=torch.Generator().manual_seed(0)).float()
    patterns = F.interpolate(patterns, size=(32, 32), mode="bilinear")
    labels_N = torch.arange(count) % 10
    contrast = 0.03 + 0.3 * torch.rand(count, 1, 1, 1, generator=generator)
    x = 0.5 + contrast * (patterns[labels_N] - 0.5) + 0.08 * torch.randn(count, 3, 32, 32, generator=generator)
    return (x.clamp(0, 1) * 255).round().to(torch.uint8), labels_N


def write_test_files(folder: Path, monkeypatch) -> None:
    """cifar-10-batches-py with 40 test images."""
    write_cifar("cifar10", folder, monkeypatch, train=[], test=[draw(TEST_IMAGES, torch.Generator().manual_seed(1))])


def train_classifier() -> Classifier:
    """A clean start, then single-step adversarial training: at eps 8/255 some images stand and some fall."""
    generator = torch.Generator().manual_seed(2)
    images_NCHW, labels_N = draw(400, generator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = build_classifier(MODEL, SHAPE)
    optimiser = torch.optim.Adam(net.parameters(), lr=5e-3)
    for step in range(80):
        batch_B = torch.randint(0, 400, (64,), generator=generator)
        x, y = images_NCHW[batch_B].float() / 255, labels_N[batch_B]
        if step >= 40:
            noise = ((torch.rand(x.shape, generator=generator) * 2 - 1) * EPS).requires_grad_()
            (slope,) = torch.autograd.grad(F.cross_entropy(net(x + noise), y), noise)
            x = (x + (noise.detach() + 1.25 * EPS * slope.sign()).clamp(-EPS, EPS)).clamp(0, 1)
        optimiser.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimiser.step()
    return net.eval()


def finetune_run(data: Path) -> FinetuneRun:
    """The specification that the classifier is exported with."""
    return FinetuneRun(
        mode="full",
        model=MODEL,
        data=DataConfig(name="cifar10", path=str(data)),
        attack=ClassifierAttackConfig(eps=EPS),
    )
