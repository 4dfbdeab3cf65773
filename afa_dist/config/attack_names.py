"""Names of evaluation attacks, what they stand for, and what they cost."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

AUTOATTACK = ("apgd-ce", "apgd-t", "fab-t", "square")
"""The parts of AutoAttack's standard version (2003.01690), in its order."""

RAND = ("apgd-ce-eot20", "apgd-dlr-eot20")
"""AutoAttack's version for models that are random: each gradient is a mean over 20."""

PLUS = ("apgd-ce-x5", "apgd-dlr-x5", "apgd-t", "fab-t", "fab-x5", "square")
"""AutoAttack+: more restarts, and the untargeted parts as well; its attacks, cheapest first."""

FAST = ("apgd-ce", "apgd-t")
"""Half of AutoAttack's parts, and about a quarter of its passes. It is not AutoAttack."""

STANDARD = ("pgd-20", "pgd-50x10", "margin-50", "scaled-50", *AUTOATTACK)
"""PGD on three objectives, which do not fail in the same way, then AutoAttack."""

GROUPS = {"standard": STANDARD, "autoattack": AUTOATTACK, "rand": RAND, "plus": PLUS, "fast": FAST}
"""What one name stands for."""

OBJECTIVES = ("pgd", "margin", "scaled")
"""What PGD maximises: the cross-entropy, the margin of the best wrong class, the cross-entropy of the logits times 5."""

PARTS = tuple(dict.fromkeys((*AUTOATTACK, *RAND, *PLUS)))

VALID_ATTACKS = (
    f"pgd-STEPS or pgd-STEPSxRESTARTS (such as pgd-50x10), likewise {' and '.join(OBJECTIVES[1:])}, "
    f"{', '.join(GROUPS)}, or a part of AutoAttack: {', '.join(PARTS)}"
)

TARGETS = 9
"""Wrong classes that the targeted attacks try, where there are so many."""

GRADIENT = 3.0
"""What a pass with its gradient costs, in passes."""

ITERATIONS = 100
"""Of APGD and FAB."""

QUERIES = 5000
"""Of Square."""


class PgdName(NamedTuple):
    """`pgd-50x10`: 50 steps from each of 10 random starts, on one of `OBJECTIVES`."""

    steps: int
    restarts: int
    objective: str = "pgd"

    def passes(self, classes: int) -> float:
        """What an image costs, in forward passes; one with its gradient counts `GRADIENT`."""
        return GRADIENT * self.steps * self.restarts


class AutoAttackPart(NamedTuple):
    """A part of one of AutoAttack's versions: `apgd-ce-x5` has 5 restarts, `apgd-ce-eot20` means over 20 gradients."""

    kind: Literal["apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t", "square"]
    restarts: int = 1
    eot: int = 1

    def passes(self, classes: int) -> float:
        """What an image costs, in forward passes; one with its gradient counts three."""
        targets = min(TARGETS, classes - 1)
        once = {
            "apgd-ce": GRADIENT * ITERATIONS,
            "apgd-dlr": GRADIENT * ITERATIONS,
            "apgd-t": GRADIENT * ITERATIONS * targets,
            "fab": (2.0 + 2.0 * classes) * ITERATIONS,
            "fab-t": (GRADIENT + 1.0) * ITERATIONS * targets,
            "square": 1.0 * QUERIES,
        }
        return once[self.kind] * self.restarts * self.eot


def parse_attack(name: str) -> PgdName | AutoAttackPart | None:
    """Read `pgd-STEPS`, `pgd-STEPSxRESTARTS`, the same of another objective, or a part of AutoAttack; None for all else."""
    if name in PARTS:
        match = re.fullmatch(r"(.+?)(?:-x(\d+))?(?:-eot(\d+))?", name)
        assert match is not None
        return AutoAttackPart(match[1], int(match[2] or 1), int(match[3] or 1))  # type: ignore[arg-type]
    match = re.fullmatch(rf"({'|'.join(OBJECTIVES)})-([1-9]\d{{0,5}})(?:x([1-9]\d{{0,3}}))?", name)
    return PgdName(int(match[2]), int(match[3] or 1), match[1]) if match else None


def meant(name: str) -> str:
    """ "; did you mean square?", if one of the names is near; else nothing."""
    close = difflib.get_close_matches(name.lower(), [*GROUPS, *PARTS, "pgd-20", "pgd-50x10", "margin-50", "scaled-50"], n=1)
    return f"; did you mean {close[0]}?" if close else ""


def single_attacks(names: Iterable[str]) -> Iterator[str]:
    """The attacks to run, in order, each of `GROUPS` taken apart."""
    for name in names:
        yield from GROUPS.get(name, (name,))


VERSIONS = {"autoattack": AUTOATTACK, "autoattack-plus": PLUS, "autoattack-rand": RAND}
"""What the union of attacks may be called: its name, and the parts it must have."""


VERSION_WORDS = {"autoattack": "AutoAttack", "autoattack-plus": "AutoAttack+", "autoattack-rand": "AutoAttack rand"}
"""What people call them."""


def versions_in(names: Iterable[str]) -> dict[str, str]:
    """Which of `VERSIONS` are whole among `names`, each with its last part: what that leaves is the version's accuracy."""
    attacks = list(single_attacks(names))
    return {version: max(parts, key=attacks.index) for version, parts in VERSIONS.items() if set(parts) <= set(attacks)}
