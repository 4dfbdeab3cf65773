"""Whose network is measured: ours, timm's, anybody's; and what is refused."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from afa_dist.attacks import Ball
from afa_dist.errors import UserError
from afa_dist.evaluation.subject import load_subject
from afa_dist.runtime.measure import measure
from tests.evaluation.helpers import Wrapped, rows_of, summary_of

ROOT = Path(__file__).parents[2]
HALF = """class Half(nn.Module):
    def forward(self, logits):
        return logits / 2

def good"""
MODULE = """
import torch
from torch import nn

class Bad(nn.Module):
    def forward(self, x):
        return torch.full((len(x), 10), torch.nan)

def good():
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

def seven():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 7))

def nan():
    return Bad()

def broken():
    raise RuntimeError("no weights here")

def number():
    return 3

def no_gradient():
    net = good()
    forward = net.forward
    net.forward = torch.no_grad()(forward)
    return net

class InPlace(nn.Module):
    def forward(self, x):
        return x.mul_(2).flatten(1)[:, :10]

def in_place():
    return InPlace()

def wants_colours():
    return nn.Sequential(nn.Conv2d(3, 10, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
"""


def job(folder, *options):
    command = [sys.executable, ROOT / "jobs/evaluate.py", "--runs_dir", ".", "--scaling.threads", "1", *options]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


def test_a_function_that_makes_a_network_is_measured_and_its_weights_are_remembered(tmp_path):
    (tmp_path / "nets.py").write_text(MODULE)
    options = ["--model", "nets:good", "--threat.eps", "0.05", "--attacks", "pgd-2"]
    done = job(tmp_path, *options, "--scaling.workers", "2")  # the module is found on workers too
    assert done.returncode == 0, done.stderr
    assert "nets:good" in done.stdout
    (tmp_path / "nets.py").write_text(MODULE.replace("manual_seed(1)", "manual_seed(2)"))
    done = job(tmp_path, *options)
    assert done.returncode == 2 and "other weights" in done.stderr
    (tmp_path / "nets.py").write_text(
        MODULE.replace("nn.Linear(64, 10))", "nn.Linear(64, 10), Half())").replace("def good", HALF)
    )
    done = job(tmp_path, *options)
    assert done.returncode == 2 and "its code has changed" in done.stderr


@pytest.mark.parametrize(
    "model,words",
    [
        ("nets:seven", "tells 7 classes apart, the images have 10"),
        ("nets:nan", "NaN or infinite"),
        ("nets:broken", "RuntimeError: no weights here"),
        ("nets:no_gradient", "no gradients of its logits"),
        ("nets:in_place", "changes the images"),
        ("nets:number", "gives a int, not a torch module"),
        ("nets:wants_colours", "fails on images of 1 x 8 x 8 pixels"),
        ("nets:none", "has no attribute 'none'"),
        ("nowhere.at_all:good", "No module named"),
        ("timm:no_such_network", "timm:no_such_network cannot be loaded"),
        ("net.onnx", "no gradients to attack it by"),
        ("net.pt", "a pickle executes code"),
        ("folder", "holds no exported model"),
    ],
)
def test_networks_that_cannot_be_measured(tmp_path, monkeypatch, capsys, model, words):
    (tmp_path / "nets.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "nets", raising=False)
    monkeypatch.setattr(sys, "argv", ["evaluate.py", "--model", model, "--threat.eps", "0.1"])
    from afa_dist.cli.evaluating import main

    assert main("evaluate.py", "") == 2
    assert words in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir() if path.name != "__pycache__"] == ["nets.py"]


def test_a_timm_network_takes_pixels(monkeypatch):
    """What timm downloads cannot be had here: its weights are left as they are drawn, all else is real."""
    import timm

    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: create(name, pretrained=False))
    torch.manual_seed(0)
    subject = load_subject("timm:resnet18")
    torch.manual_seed(0)
    inner = create("resnet18").eval()
    x = torch.rand(2, 3, 64, 64)
    mean, std = (torch.tensor(inner.pretrained_cfg[key])[:, None, None] for key in ("mean", "std"))
    torch.testing.assert_close(subject.net(x), inner((x - mean) / std))
    assert subject.sha256 != load_subject("timm:resnet18").sha256  # drawn anew: other weights


def test_from_python_it_is_the_same_measurement(quick, digits, tmp_path):
    few = digits.test.subset(np.arange(64))
    want = summary_of(tmp_path, quick, few, attacks=("pgd-5", "square"))["accuracies"]
    training = quick.train()
    for images in (few.images_NCHW, few.images_NCHW.float() / 255):
        found = measure(quick, images, few.labels_N, eps=0.1, attacks=["pgd-5", "square"])
        assert found["accuracies"] == want
    assert training.training and not quick._forward_pre_hooks
    assert (
        measure(quick, few.images_NCHW.numpy(), few.labels_N.numpy(), eps="1/10", attacks="pgd-5, square")["accuracies"]
        == want
    )
    kept = measure(quick, few.images_NCHW, few.labels_N, eps=0.1, attacks=["pgd-5", "square"], folder=tmp_path / "kept")
    assert kept["accuracies"] == want
    assert rows_of(tmp_path / "kept", "measured").equals(rows_of(tmp_path))
    halves = (few.images_NCHW.float() / 255 + 0.001).clamp(0, 1)  # pixels between the 256 values
    assert measure(quick, halves, few.labels_N, eps=0.0, attacks=["pgd-5"])["accuracies"]["clean"]["images"] == 64


def test_a_folder_of_another_network_or_other_options_is_refused(quick, digits, tmp_path):
    few = digits.test.subset(np.arange(32))
    options = {"attacks": "pgd-2", "folder": tmp_path}
    measure(quick, few.images_NCHW, few.labels_N, eps=0.1, **options)
    with pytest.raises(UserError, match="other weights"):
        other = nn.Sequential(quick, nn.Linear(10, 10))
        measure(other, few.images_NCHW, few.labels_N, eps=0.1, **options)


def test_from_python_all_mistakes_are_told(quick, digits):
    x, y = digits.test.images_NCHW[:8].float() / 255, digits.test.labels_N[:8]
    for images, labels, words in (
        (x * 255, y, "pixels from 0 to 255; they must lie in \\[0, 1\\]: divide by 255"),
        (x * 2 - 1, y, "pixels from -1 to 1; .*leave normalisation to the network"),
        (x * torch.nan, y, "pixels from nan"),
        (x[:0], y[:0], "images: are none"),
        (x[0], y, "give \\(images, channels, height, width\\)"),
        (x, y[:3], "one for each of the 8 images"),
        (x, y.float(), "whole numbers"),
        (x, y + 9, "there are 10 classes"),
    ):
        with pytest.raises(UserError, match=words):
            measure(quick, images, labels, eps=0.1)
    with pytest.raises(UserError, match="apgd-dlr-x5 needs at least 3 classes"):
        measure(Wrapped(quick, lambda logits: logits[:, :2]), x, y % 2, eps=0.1, attacks=["apgd-dlr-x5"])


class Confident(nn.Module):
    """NaN where softmax overflows by hand, as home-made losses do; only on images that are attacked."""

    def __init__(self, net, x):
        super().__init__()
        self.net = net
        self.register_buffer("x", x)

    def forward(self, x):
        logits = self.net(x)
        near = Ball("linf", 1).distance(x, self.x[: len(x)]) < 1e-6 if len(x) <= len(self.x) else torch.ones(len(x)) > 0
        return torch.where(near[:, None], logits, logits * torch.nan)


def test_nan_under_attack_counts_as_broken(quick, digits, tmp_path):
    """The network does not give the right answer there: it is not robust."""
    few = digits.test.subset(np.arange(16))
    right = quick(few.pixels(torch.arange(16))).argmax(1) == few.labels_N
    few = few.subset(right.nonzero().squeeze(1).numpy())
    net = Confident(quick, few.pixels(torch.arange(len(few))))
    summary = summary_of(tmp_path, net, few, attacks=("pgd-1",), eps=0.001, batch_size=250)
    assert summary["accuracies"]["pgd-1"]["right"] == 0
    assert summary["warnings"][0].startswith(f"the network's logits are NaN or infinite on {len(few)} adversarial images")
