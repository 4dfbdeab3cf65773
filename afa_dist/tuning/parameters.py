"""What a search may vary: one option of the recipe, and the values that it may take."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Value = float | int | str | bool | None
Params = dict[str, Value]
"""Values by dotted option."""


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers from low to high, both included. log: evenly by their logarithm. step: 0, or only low + k * step.

    whole: integers only.
    """

    low: float
    high: float
    log: bool = False
    step: float = 0.0
    whole: bool = False

    @property
    def ends(self) -> tuple[Value, ...]:
        """The values whose neighbours on one side are not allowed, and an uneven one between them: an option for whole
        numbers takes 1.0, and nothing that lies between."""
        if self.whole:
            return int(self.low), int(self.high)
        inner = self.low + (math.floor(0.6 * (self.high - self.low) / self.step) * self.step if self.step else 0.0)
        uneven = self.low + 0.6180339887 * (self.high - self.low)
        return self.low, self.high, inner if self.step else float(f"{uneven:.4g}")

    def words(self) -> str:
        kind = ", by its logarithm" if self.log else ""
        return f"{self.low:g} to {self.high:g}{kind}" + (f", in steps of {self.step:g}" if self.step else "")

    def distribution(self) -> BaseDistribution:
        from optuna.distributions import FloatDistribution, IntDistribution

        if self.whole:
            return IntDistribution(int(self.low), int(self.high), log=self.log, step=int(self.step) or 1)
        if self.step:  # by number: multiples of steps are not what Optuna's decimals make of them
            return IntDistribution(0, self.steps)
        return FloatDistribution(self.low, self.high, log=self.log)

    @property
    def steps(self) -> int:
        """How many steps there are from the lowest to the highest value, where there are steps."""
        return math.floor((self.high - self.low) / self.step + 1e-9)

    def drawn(self, value: Any) -> Any:
        """What `distribution` knows a value as."""
        return round((value - self.low) / self.step) if self.step and not self.whole else value

    def value_of(self, drawn: Any) -> Any:
        """The value that was drawn from `distribution`."""
        return self.low + drawn * self.step if self.step and not self.whole else drawn


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of some values."""

    values: tuple[Value, ...]

    @property
    def ends(self) -> tuple[Value, ...]:
        """All values: each may be wrong by itself."""
        return self.values

    def words(self) -> str:
        return "one of " + ", ".join(map(str, self.values))

    def distribution(self) -> BaseDistribution:
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution(self.values)

    def drawn(self, value: Any) -> Any:
        """What `distribution` knows a value as."""
        return value

    def value_of(self, drawn: Any) -> Any:
        """The value that was drawn from `distribution`."""
        return drawn


Parameter = Range | Choice
Space = Mapping[str, Parameter]
"""What is searched, by dotted option."""


def faults_of(parameter: Parameter) -> list[str]:
    """Why nothing can be drawn from `parameter`, in words; empty if something can."""
    if isinstance(parameter, Choice):
        plain = all(value is None or isinstance(value, float | int | str | bool) for value in parameter.values)
        if not parameter.values or not plain:
            return ["must choose among single values (numbers, words, true or false)"]
        same = len({(type(value), value) for value in parameter.values}) < len(parameter.values)
        return ["names a value twice"] if same else []
    faults = []
    if not parameter.low < parameter.high:
        faults.append(f"goes from {parameter.low:g} to {parameter.high:g}; the first must be the smaller one")
    if parameter.log and parameter.low <= 0:
        faults.append(f"begins at {parameter.low:g}; a logarithm needs a number above 0")
    return faults


def as_record(space: Space) -> dict[str, Any]:
    """As JSON, for the search's own record: what a search is resumed with must be the same."""
    return {
        key: {"choice": list(parameter.values)} if isinstance(parameter, Choice) else dataclasses.asdict(parameter)
        for key, parameter in space.items()
    }


def tell(value: Value) -> str:
    """A value as it is shown, and typed."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return f"{value:.4g}" if isinstance(value, float) else str(value)
