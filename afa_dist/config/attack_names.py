"""Names of evaluation attacks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

AUTOATTACK = ("apgd-ce", "apgd-t", "fab-t", "square")
"""The parts of AutoAttack's standard version (2003.01690), in its order."""

STANDARD = ("pgd-20", "pgd-50x10", "margin-50", "scaled-50", *AUTOATTACK)
"""PGD on three objectives, which do not fail in the same way, then AutoAttack."""

GROUPS = {"standard": STANDARD, "autoattack": AUTOATTACK}
"""What one name stands for."""

OBJECTIVES = ("pgd", "margin", "scaled")
"""What PGD maximises: the cross-entropy, the margin of the best wrong class, the cross-entropy of the logits times 5."""

VALID_ATTACKS = (
    f"pgd-STEPS or pgd-STEPSxRESTARTS (such as pgd-50x10), likewise {' and '.join(OBJECTIVES[1:])}, standard, autoattack, "
    f"or a part of it: {', '.join(AUTOATTACK)}"
)


class PgdName(NamedTuple):
    """`pgd-50x10`: 50 steps from each of 10 random starts, on one of `OBJECTIVES`."""

    steps: int
    restarts: int
    objective: str = "pgd"


class AutoAttackPart(NamedTuple):
    """One of `AUTOATTACK`, with the standard version's settings."""

    name: str


def parse_attack(name: str) -> PgdName | AutoAttackPart | None:
    """Read `pgd-STEPS`, `pgd-STEPSxRESTARTS`, the same of another objective, or a part of AutoAttack; None for all else."""
    if name in AUTOATTACK:
        return AutoAttackPart(name)
    match = re.fullmatch(rf"({'|'.join(OBJECTIVES)})-([1-9]\d{{0,5}})(?:x([1-9]\d{{0,3}}))?", name)
    return PgdName(int(match[2]), int(match[3] or 1), match[1]) if match else None


def single_attacks(names: Iterable[str]) -> Iterator[str]:
    """The attacks to run, in order, each of `GROUPS` taken apart."""
    for name in names:
        yield from GROUPS.get(name, (name,))
