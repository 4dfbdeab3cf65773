"""What is in a set: how many images of each class and size, which are damaged, and which are there more than once.

Legend: N images, B images looked at together.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from afa_dist.data.decode import read_all, read_pixels
from afa_dist.data.sheet import COLUMNS, MOST_ROWS
from afa_dist.data.sources.base import Source
from afa_dist.data.writing import png
from afa_dist.errors import Problem, UnreachableError, UserError

AT_ONCE = 256

SHOWN = 20
"""Damaged rows and duplicates that are named; all are counted."""

TILE, LARGE = 64, 256
"""Side of an image on the contact sheet where sizes differ or images are larger than this."""

Tick = Callable[[int], None]


class Census:
    """Looks at every image of a source once; what it keeps of each is a hash of 8 bytes.

    tiles: of the first images of each class, uint8 (C, H, W), by class.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.tiles: dict[int, list[torch.Tensor]] = {}

    def take(self, tick: Tick) -> dict[str, Any]:
        """What was found, by split; `tick` hears how many images more are done."""
        hashes: dict[str, np.ndarray] = {}
        found: dict[str, Any] = {"classes": list(self.source.classes), "splits": {}}
        for split, labels in self.source.labels.items():
            sizes: Counter[str] = Counter()
            damaged: list[Problem] = []
            hashes[split] = np.zeros(len(labels), np.uint64)
            step = AT_ONCE if self.source.pixels is not None else AT_ONCE // 16  # photographs are large
            for start in range(0, len(labels), step):
                stop = min(start + step, len(labels))
                for row, image in self._images(split, start, stop, damaged):
                    sizes[" x ".join(map(str, image.shape[1:]))] += 1
                    hashes[split][row] = _hash(image)
                    if split == "train":
                        self._keep(int(labels[row]), image)
                tick(stop - start)
            per_class = np.bincount(labels, minlength=len(self.source.classes))
            found["splits"][split] = {
                "images": len(labels),
                "per_class": per_class.tolist(),
                "empty_classes": [self.source.classes[label] for label in np.flatnonzero(per_class == 0)],
                "sizes": dict(sizes.most_common(SHOWN)),
                "different_sizes": len(sizes),
                "damaged": len(labels) - sum(sizes.values()),
                "damaged_rows": [str(problem) for problem in damaged[:SHOWN]],
                **_repeats(hashes[split], labels),
            }
        found["shared"] = self._shared(hashes)
        return found

    def _images(self, split: str, start: int, stop: int, damaged: list[Problem]) -> list[tuple[int, np.ndarray]]:
        """Rows and pixels (C, H, W) of those that can be read."""
        try:
            return list(zip(range(start, stop), self._read(split, start, stop), strict=True))
        except UnreachableError:
            raise
        except UserError as error:
            if stop - start == 1 or self.source.in_order:
                damaged += error.problems
                return []
        rows = [self._images(split, row, row + 1, damaged) for row in range(start, stop)]
        return [pair for part in rows for pair in part]

    def _read(self, split: str, start: int, stop: int) -> list[np.ndarray]:
        piece = self.source.read(split, start, stop)
        return list(piece) if isinstance(piece, np.ndarray) else read_all(piece)

    def _keep(self, label: int, image: np.ndarray) -> None:
        tiles = self.tiles.setdefault(label, [])
        if len(tiles) < COLUMNS and label < MOST_ROWS:
            tile = torch.from_numpy(np.array(image))
            tiles.append(tile if max(tile.shape[1:]) <= LARGE else _brought(tile, len(tile)))

    def _shared(self, hashes: dict[str, np.ndarray]) -> dict[str, Any]:
        """Images that are in both splits, pixel by pixel: what a model may have seen of the test images."""
        if len(hashes) < 2:
            return {"images": 0, "rows": []}
        train, test = hashes["train"], hashes["test"]
        both = np.intersect1d(train, test)
        rows = np.flatnonzero(np.isin(test, both) & (test != 0))
        first = {value: int(np.flatnonzero(train == value)[0]) for value in test[rows[:SHOWN]].tolist()}
        return {"images": len(rows), "rows": [[int(row), first[int(test[row])]] for row in rows[:SHOWN]]}


def _hash(image: np.ndarray) -> int:
    """Equal for equal pixels; never 0, which stands for images that cannot be read."""
    digest = hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=8, person=str(image.shape).encode()[:16])
    return int.from_bytes(digest.digest(), "little") or 1


def _repeats(hashes_N: np.ndarray, labels_N: np.ndarray) -> dict[str, Any]:
    """How many images are the same as one before them, and which of those have another label."""
    order = np.lexsort((np.arange(len(hashes_N)), hashes_N))
    order = order[hashes_N[order] != 0]
    again = np.flatnonzero(hashes_N[order][1:] == hashes_N[order][:-1]) + 1
    rows = np.sort(order[again])
    disagree = order[again][labels_N[order[again]] != labels_N[order[again - 1]]]
    return {
        "repeated": len(rows),
        "repeated_rows": rows[:SHOWN].tolist(),
        "other_label": len(disagree),
        "other_label_rows": np.sort(disagree)[:SHOWN].tolist(),
    }


def tiles_of_one_size(tiles: dict[int, list[torch.Tensor]]) -> list[list[torch.Tensor]]:
    """Rows of a contact sheet, all of one size and number of channels."""
    rows = [tiles[label] for label in sorted(tiles)]
    shapes = {tuple(tile.shape) for row in rows for tile in row}
    if len(shapes) == 1:
        return rows
    channels = max(shape[0] for shape in shapes)
    return [[_brought(tile, channels) for tile in row] for row in rows]


def _brought(tile: torch.Tensor, channels: int) -> torch.Tensor:
    pixels = read_pixels(png(tile.permute(1, 2, 0).numpy()), TILE, colour=channels == 3)
    return torch.from_numpy(np.array(pixels))
