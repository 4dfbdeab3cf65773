"""How close images come to real ones: a model that learned its training images by heart draws copies of them.

Legend: M images looked for, N images looked among, D pixels of an image.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from afa_dist.data.image_set import ImageSet

CHUNK = 256
AMONG = 8192
"""Images looked for at once and among at once: a matter of memory alone."""

CLOSE = 0.01
"""Real images closer to another part than all but this share of them set the limit of what counts as close."""

SHOWN = 20


def nearest(
    images_MD: torch.Tensor, among_ND: torch.Tensor, tick: Callable[[], None] = lambda: None
) -> tuple[np.ndarray, np.ndarray]:
    """For each image the closest of `among_ND`: root mean square difference of pixels in [0, 1] (M,), and its row (M,).

    Both uint8. Sums of products of bytes are whole numbers that fp64 holds, so nothing is rounded; of equals the first.
    """
    squares, rows = [], []
    for part in images_MD.split(CHUNK):
        x = part.double()
        best = x.new_full((len(x),), torch.inf)
        row = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        for start in range(0, len(among_ND), AMONG):
            other = among_ND[start : start + AMONG].double()
            found = other.square().sum(dim=1) - 2 * x @ other.T
            value, place = found.min(dim=1)
            row = torch.where(value < best, place + start, row)
            best = torch.minimum(value, best)
            tick()
        squares.append(best + x.square().sum(dim=1))
        rows.append(row)
    distances = (torch.cat(squares) / images_MD.shape[1]).sqrt() / 255
    return distances.cpu().numpy(), torch.cat(rows).cpu().numpy()


def closeness(
    drawn: ImageSet, train: ImageSet, test: ImageSet, mirrored: bool, tick: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """How close drawn images come to training and to test images, beside how close those come to each other.

    "closer": share of the drawn images that are closer to a training (test) image than `CLOSE` of the test (training)
    images are; about as much as `CLOSE` where drawn images are like new ones. mirrored: look among mirrored ones as well.
    """
    pixels = {name: part.in_memory()[0] for name, part in (("drawn", drawn), ("train", train), ("test", test))}
    flat = {name: images_NCHW.flatten(1) for name, images_NCHW in pixels.items()}
    found: dict[str, Any] = {"images": len(drawn)}
    for name, other, part in (("train", "test", train), ("test", "train", test)):
        among = flat[name]
        if mirrored:
            among = torch.cat([among, pixels[name].flip(-1).flatten(1)])
        # Spread over all: files may be sorted by class.
        spread = torch.linspace(0, len(flat[other]) - 1, min(len(drawn), len(flat[other]))).round().long()
        usual, _ = nearest(flat[other][spread.to(flat[other].device)], among, tick)
        distances, rows = nearest(flat["drawn"], among, tick)
        limit = float(np.quantile(usual, CLOSE))
        order = np.argsort(distances, kind="stable")[:SHOWN]
        found[name] = {
            "median": float(np.median(distances)),
            "usual_median": float(np.median(usual)),
            "limit": limit,
            "closer": float((distances < limit).mean()),
            "copies": int((distances < 1 / 255).sum()),
            "closest": [[int(i), int(rows[i]) % len(part), float(distances[i])] for i in order],
        }
    return found
