"""Evaluations without the command line: a network, images, options."""

import os
import signal
import subprocess
import time

import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from torch import nn

from afa_dist.config import EvaluateRun, ThreatConfig
from afa_dist.evaluation.subject import Subject
from afa_dist.runtime.evaluate import evaluate
from afa_dist.runtime.evaluation_checks import Prepared
from afa_dist.runtime.placement import Placement

HERE = Placement(0, False, 1)


def run_of(folder, eps=0.1, norm="linf", **options):
    options = {"attacks": ("pgd-5", "pgd-10x3"), "model": "m", **options}
    return EvaluateRun(runs_dir=str(folder), threat=ThreatConfig(norm=norm, eps=eps), **options)


def prepared(net, test, sha="0"):
    return Prepared(Subject(net, sha, {}), test)


def summary_of(folder, net, test, on_progress=lambda progress: None, **options):
    """Evaluate in this process."""
    return evaluate(run_of(folder, **options), prepared(net, test), HERE, on_progress)


def rows_of(folder, name="run"):
    """The per-image table but for times."""
    return pq.read_table(folder / name / "evaluation" / "per_image.parquet").drop_columns(["seconds"])


class Wrapped(nn.Module):
    """A network with something done to its logits."""

    def __init__(self, net, change):
        super().__init__()
        self.net, self.change = net, change

    def forward(self, x):
        return self.change(self.net(x))


def trained_perceptron(digits):
    """Two layers without convolutions: AutoAttack's thousands of passes take seconds."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimiser = torch.optim.Adam(net.parameters(), lr=0.01)
    x, y = digits.train.images_NCHW.float() / 255, digits.train.labels_N
    for _ in range(60):
        optimiser.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimiser.step()
    return net


def killed_and_warned(command, folder, kept):
    """Run a command: killed when it has kept two more files, then warned (exit code 75), then to its end."""
    codes = []
    for name in (signal.SIGKILL, signal.SIGTERM, None):
        with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            if name is not None:
                wanted = len(list(kept())) + 2
                while len(list(kept())) < wanted and process.poll() is None:
                    time.sleep(0.02)
                os.kill(process.pid, name)
            _, err = process.communicate(timeout=120)
            codes.append(process.returncode)
    assert codes == [-signal.SIGKILL, 75, 0], err
    assert "Traceback" not in err
