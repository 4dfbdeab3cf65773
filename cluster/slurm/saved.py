"""Prints what stands for all that a run at an address has saved: equal for two moments between which nothing was.

python -m cluster.slurm.saved s3://bucket/runs/mine
"""

from __future__ import annotations

import hashlib
import sys

from afa_dist.training.mirror import Mirror
from cluster.slurm.attempts import PASSING


def saved_at(place: str) -> str:
    sizes = Mirror(place).sizes()
    found = sorted((name, size) for name, size in sizes.items() if name.rpartition("/")[2] not in PASSING)
    return hashlib.sha256(repr(found).encode()).hexdigest()[:16]


if __name__ == "__main__":
    print(saved_at(sys.argv[1]))
