"""What a user requires of a model: one accuracy, and the least that it must be."""

from __future__ import annotations

import dataclasses
import re


@dataclasses.dataclass(frozen=True)
class Requirement:
    """accuracy: "clean_acc" or "robust_acc". least: 0 to 1."""

    accuracy: str
    least: float

    @property
    def other(self) -> str:
        """The accuracy that is to be as high as it can be."""
        return "robust_acc" if self.accuracy == "clean_acc" else "clean_acc"


def parse_requirement(text: str) -> Requirement | None:
    """Read such as `clean>=0.80`; None for all else."""
    match = re.fullmatch(r"\s*(clean|robust)(?:_acc)?\s*>=\s*(0|1|0?\.\d+|1\.0+)\s*", text)
    return Requirement(f"{match[1]}_acc", float(match[2])) if match else None
