"""Names of evaluation attacks."""

from __future__ import annotations

import re
from typing import NamedTuple


class PgdName(NamedTuple):
    """`pgd-50x10`: 50 steps from each of 10 random starts."""

    steps: int
    restarts: int


def parse_attack(name: str) -> PgdName | None:
    """Read `pgd-STEPS` or `pgd-STEPSxRESTARTS`; None when it is neither."""
    match = re.fullmatch(r"pgd-([1-9]\d{0,5})(?:x([1-9]\d{0,3}))?", name)
    return PgdName(int(match[1]), int(match[2] or 1)) if match else None
