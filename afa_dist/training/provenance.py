"""Where a result comes from: versions, code, hardware, data."""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

PACKAGES = (
    "afa-dist",
    "torch",
    "torchvision",
    "numpy",
    "pyarrow",
    "safetensors",
    "ray",
    "scikit-learn",
    "pyautoattack",
    "timm",
    "captum",
    "kornia",
    "pytorch-metric-learning",
    "torchattacks",
)


COPIED = "code.json"
"""In a copy of a checkout: what `_code` gave in the checkout."""


def provenance(seed: int, data_fingerprint: str) -> dict[str, Any]:
    """A record of everything outside the specification that a result may depend on."""
    return {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "seed": seed,
        "data_fingerprint": data_fingerprint,
        "versions": {"python": platform.python_version(), **_versions()},
        "code": _code(),
        "hardware": hardware(),
    }


def hardware() -> dict[str, Any]:
    """Processor, cores, threads in use and GPUs of this machine."""
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": gpus,
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def _code() -> dict[str, str | None]:
    """Commit of the checkout this package lies in, and a hash of what differs from it; None outside a checkout.

    A copy that was made for a run in a queue has them with it.
    """
    folder = Path(__file__).resolve().parents[2]
    if (folder / COPIED).exists():
        return dict(json.loads((folder / COPIED).read_text()))
    top = _git(folder, "rev-parse", "--show-toplevel")
    if top is None or Path(top.strip()) != folder:  # installed, perhaps inside the checkout of something else
        return {"commit": None, "diff_sha256": None}
    commit = _git(folder, "rev-parse", "HEAD")
    diff = _git(folder, "diff", "HEAD", "--", ".", ":!results")  # records that a grid has written are not code
    return {
        "commit": commit.strip() if commit else None,
        "diff_sha256": hashlib.sha256(diff.encode()).hexdigest() if diff else None,
    }


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout
