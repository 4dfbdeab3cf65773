"""A grid of pipelines: variants of one recipe, over several seeds."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from afa_dist.config.fields import Section, section, setting
from afa_dist.config.runs import PipelineRun
from afa_dist.errors import Problem


@dataclasses.dataclass(kw_only=True, frozen=True)
class AblationConfig(Section):
    """How a grid is run and where its figures go. The variants themselves stand in the recipe."""

    seeds: tuple[int, ...] = setting((0, 1, 2), "seeds that every variant is trained with")
    only: tuple[str, ...] = setting((), "run these variants only, by name; by default all")
    parallel: int = setting(1, "runs at once, each a process of its own; they share the cores", ge=1)
    budget: int = setting(
        0,
        "forward passes an image over a whole run, so that variants cost alike: sets the epochs of all stages; 0 = off",
        ge=0,
    )
    pretrain_share: float = setting(0.85, "share of the budget for pre-training, where there is one", gt=0, le=0.99)
    reference: str | None = setting(None, "variant that the table compares the others with, seed by seed")
    results_dir: str = setting("results", "folder for the record, the table and the plot")
    data_label: str = setting("", "what the results call the data; by default its name")

    def problems(self) -> Iterator[Problem]:
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            yield Problem("seeds", f"{', '.join(map(str, self.seeds)) or 'none'}: give different whole numbers from 0")


@dataclasses.dataclass(kw_only=True, frozen=True)
class AblationRun(PipelineRun):
    """What the command line of a grid takes: options for all of its pipelines, and those of the grid."""

    ablation: AblationConfig = section(AblationConfig, "the grid")
