"""Names of evaluation attacks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

AUTOATTACK = ("apgd-ce", "apgd-t", "fab-t", "square")
"""The parts of AutoAttack's standard version (2003.01690), in its order."""

VALID_ATTACKS = f"pgd-STEPS or pgd-STEPSxRESTARTS (such as pgd-50x10), autoattack, or a part of it: {', '.join(AUTOATTACK)}"


class PgdName(NamedTuple):
    """`pgd-50x10`: 50 steps from each of 10 random starts."""

    steps: int
    restarts: int


class AutoAttackPart(NamedTuple):
    """One of `AUTOATTACK`, with the standard version's settings."""

    name: str


def parse_attack(name: str) -> PgdName | AutoAttackPart | None:
    """Read `pgd-STEPS`, `pgd-STEPSxRESTARTS` or a part of AutoAttack; None when it is none of them."""
    if name in AUTOATTACK:
        return AutoAttackPart(name)
    match = re.fullmatch(r"pgd-([1-9]\d{0,5})(?:x([1-9]\d{0,3}))?", name)
    return PgdName(int(match[1]), int(match[2] or 1)) if match else None


def single_attacks(names: Iterable[str]) -> Iterator[str]:
    """The attacks to run, in order: `autoattack` stands for its parts."""
    for name in names:
        yield from AUTOATTACK if name == "autoattack" else (name,)
