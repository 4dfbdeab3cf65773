"""Many processes read while another one prepares: each sees sets that are whole, or none."""

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from afa_dist.config import DataConfig
from afa_dist.data.prepared import load_prepared

from .preparing import prepared

ROOT = Path(__file__).parents[2]

READER = """
import hashlib, sys, time
import numpy as np, torch
from afa_dist.config import DataConfig
from afa_dist.data.prepared import load_prepared
from afa_dist.errors import UserError

torch.set_num_threads(1)

def digest(path, seed):
    found = load_prepared(DataConfig(name="prepared", path=path), "train")
    pixels = torch.zeros(len(found), *found.shape, dtype=torch.uint8)
    for rows in torch.from_numpy(np.random.default_rng(seed).permutation(len(found))).split(32):
        pixels[rows] = found.images_NCHW[rows]
    return hashlib.sha256(pixels.numpy().tobytes() + found.labels_N.numpy().tobytes()).hexdigest()

old, new = sys.argv[1:]
print(digest(old, 0), flush=True)
passes, deadline = 0, time.monotonic() + 120
while time.monotonic() < deadline:
    try:
        found = digest(new, passes)
        break
    except UserError as error:
        assert "is not a folder that can be read" in str(error), str(error)
    assert digest(old, passes) == digest(old, passes + 1)
    passes += 1
print(passes, found, flush=True)
"""


def digest(folder):
    found = load_prepared(DataConfig(name="prepared", path=str(folder)), "train")
    return hashlib.sha256(found.in_memory()[0].numpy().tobytes() + found.labels_N.numpy().tobytes()).hexdigest()


@pytest.mark.slow
def test_four_processes_read_while_one_prepares(tmp_path):
    random = np.random.default_rng(0)
    for name, count in (("old", 300), ("new", 6000)):
        image = random.integers(0, 256, (count, 8, 8, 3), np.uint8)
        np.savez(tmp_path / f"{name}.npz", image=image, label=np.arange(count) % 5)
    prepared(tmp_path / "old.npz", tmp_path / "old", shard_size=20)
    readers = [
        subprocess.Popen(
            [sys.executable, "-c", READER, str(tmp_path / "old"), str(tmp_path / "new")],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for _ in range(4)
    ]
    before = [reader.stdout.readline().strip() for reader in readers]
    assert before == [digest(tmp_path / "old")] * 4
    prepared(tmp_path / "new.npz", tmp_path / "new", shard_size=20)
    after = [reader.communicate(timeout=150)[0].split() for reader in readers]
    assert [found for _, found in after] == [digest(tmp_path / "new")] * 4
    assert all(int(passes) > 0 for passes, _ in after)
    assert torch.equal(
        load_prepared(DataConfig(name="prepared", path=str(tmp_path / "new")), "train").in_memory()[0],
        torch.from_numpy(np.load(tmp_path / "new.npz")["image"]).permute(0, 3, 1, 2),
    )
