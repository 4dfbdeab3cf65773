"""Rows of a set of images, and what scores them.

Legend: B images, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from afa_dist.data.writing import IMAGE
from afa_dist.errors import UserError
from afa_dist.evaluation.executor import Calls

SCHEMA = pa.schema(
    [
        ("image", IMAGE),
        ("label", pa.int64()),
        ("intended", pa.int64()),
        ("predicted", pa.int64()),
        ("score", pa.float64()),
        ("seed", pa.int64()),
        ("index", pa.int64()),
    ]
)
"""A row: PNG; label to train with; the class it was drawn for, or came with; what the scorer says (null without one);
log-probability of the label by the scorer (null without one); seed of its noise (null if not known); number among the
candidates."""


class Maker(Protocol):
    """What makes rows of a set."""

    def rows(self, start: int, stop: int) -> pa.Table:
        """Those of candidates start to stop - 1."""


def _rows(maker: Maker, start: int, stop: int) -> pa.Table:
    return maker.rows(start, stop)


CALLS: Calls = {"rows": _rows}


def table_of(columns: Mapping[str, Any]) -> pa.Table:
    """Columns of `SCHEMA` as a table; any of them may be left out."""
    schema = pa.schema([field for field in SCHEMA if field.name in columns])
    arrays = [columns[field.name] for field in schema]
    # Chunks stay apart: an array of encoded images holds no more than 2 GiB.
    arrays = [
        a if isinstance(a, pa.ChunkedArray) else pa.array(a, field.type) for a, field in zip(arrays, schema, strict=True)
    ]
    return pa.table(arrays, schema)


class Scorer:
    """Labels and scores images; without a network all keep the label they have."""

    def __init__(self, net: nn.Module | None, classes: int, labels: Literal["intended", "scorer"], device: torch.device):
        self.net = net.to(device) if net is not None else None
        self.classes, self.labels, self.device = classes, labels, device

    @torch.no_grad()
    def columns(self, images_BHWC: np.ndarray, intended: np.ndarray, numbers: Sequence[int] | np.ndarray) -> dict[str, Any]:
        """label, intended, predicted and score of images, uint8 (B, H, W, C), that are meant to be of classes `intended`
        (-1: of none), and have these numbers among the candidates.

        Raises:
            UserError: the network does not give a finite logit for each class.
        """
        nothing = [None] * len(intended)
        if self.net is None:
            return {"label": intended, "intended": intended, "predicted": nothing, "score": nothing}
        x = torch.from_numpy(images_BHWC).permute(0, 3, 1, 2).to(self.device).float() / 255
        logits = self.net(x)
        if logits.shape != (len(x), self.classes):
            what = f"gives {' x '.join(map(str, logits.shape))} for {len(x)} images, not {self.classes} logits for each"
            raise UserError.one("scorer", what)
        if not (finite := logits.isfinite().all(dim=1).cpu()).all():
            number = numbers[int((~finite).nonzero()[0])]
            raise UserError.one("scorer", f"gives logits that are not finite, for image {number} for one")
        log_p = logits.double().log_softmax(dim=1).cpu().numpy()
        predicted = log_p.argmax(axis=1)
        labels = predicted if self.labels == "scorer" else intended
        return {
            "label": labels,
            "intended": intended,
            "predicted": predicted,
            "score": log_p[np.arange(len(labels)), labels],
        }
