"""Nearest neighbours by brute force, and copies that are found."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from afa_dist.data.image_set import ImageSet
from afa_dist.diffusion import nearest as module
from afa_dist.diffusion.nearest import closeness, nearest


def decoded(png):
    """Pixels of a PNG."""
    return np.asarray(Image.open(io.BytesIO(png)))


def images(count, seed, size=4):
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 1, size, size), dtype=torch.uint8, generator=g)


def as_set(pixels):
    return ImageSet(pixels, torch.zeros(len(pixels), dtype=torch.int64), ("a",))


def test_distances_and_rows_are_those_of_brute_force(monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 7)
    monkeypatch.setattr(module, "AMONG", 11)
    some, among = images(20, 0).flatten(1), images(45, 1).flatten(1)
    among[30] = among[4]  # of equals the first
    some[3] = among[30]
    distances, rows = nearest(some, among)
    every = ((some[:, None].double() - among[None].double()) ** 2).mean(dim=2).sqrt() / 255
    assert rows.tolist() == every.argmin(dim=1).tolist()
    assert distances == pytest.approx(every.min(dim=1).values.numpy(), abs=1e-15)
    assert rows[3] == 4 and distances[3] == 0


def test_copies_of_training_images_are_found_mirrored_ones_where_asked():
    train, test = images(200, 2), images(100, 3)
    fresh = images(100, 4)
    honest = closeness(as_set(fresh), as_set(train), as_set(test), mirrored=False)
    assert honest["train"]["closer"] < 0.1 and honest["train"]["copies"] == 0
    assert honest["train"]["median"] == pytest.approx(honest["train"]["usual_median"], rel=0.1)
    copied = fresh.clone()
    copied[:30] = train[50:80]
    copied[30:40] = train[:10].flip(-1)
    plain, mirrored = (closeness(as_set(copied), as_set(train), as_set(test), mirrored=flag) for flag in (False, True))
    assert plain["train"]["copies"] == 30 and mirrored["train"]["copies"] == 40
    assert plain["train"]["closer"] >= 0.3
    assert plain["train"]["closest"] == [[i, i + 50, 0.0] for i in range(20)]
    assert {tuple(pair[:2]) for pair in mirrored["train"]["closest"]} <= {(i, i + 50) for i in range(30)} | {
        (i + 30, i) for i in range(10)
    }
    leaked = fresh.clone()
    leaked[:50] = test[:50]
    found = closeness(as_set(leaked), as_set(train), as_set(test), mirrored=False)
    assert found["test"]["copies"] == 50 and found["test"]["closer"] >= 0.5
