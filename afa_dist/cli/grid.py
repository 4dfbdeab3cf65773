"""The runs of a grid: variants of a recipe, times seeds, each a pipeline of its own."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from afa_dist.cli import recipes
from afa_dist.cli.pipeline import check as check_pipeline
from afa_dist.cli.pipeline import stage_values
from afa_dist.cli.specification import build
from afa_dist.cli.titles import title_of
from afa_dist.config import AblationConfig, DataConfig, PipelineRun
from afa_dist.config.budget import with_budget
from afa_dist.data.catalogue import DataSplits
from afa_dist.errors import Problem, UserError
from afa_dist.training.run_dir import RunDirectory


@dataclasses.dataclass(frozen=True)
class Cell:
    """One variant with one seed."""

    variant: str
    title: str
    seed: int
    run: PipelineRun

    @property
    def folder(self) -> Path:
        return RunDirectory.of(self.run).path

    @property
    def finished(self) -> bool:
        return (self.folder / "summary.json").exists()


def variants_of(section: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The variants of a recipe's `ablation` section: options laid over the recipe, by name.

    `variants` names them one by one. `grid` maps a dotted option to the values it takes; all combinations are made, and
    with both, each combination of each variant. A recipe with neither is a single variant.

    Raises:
        UserError: not of this form.
    """
    named = section.get("variants") or {}
    axes = section.get("grid") or {}
    problems = []
    if not isinstance(named, Mapping) or not all(isinstance(v, Mapping) or v is None for v in named.values()):
        problems.append(Problem("ablation.variants", "must map names to options, such as 'trades: {finetune: {...}}'"))
    if not isinstance(axes, Mapping) or not all(isinstance(v, list) and v for v in axes.values()):
        problems.append(Problem("ablation.grid", "must map options to lists, as in 'pretrain.method.keys: [clean, both]'"))
    if problems:
        raise UserError(problems)
    found: dict[str, Mapping[str, Any]] = {}
    for name, options in named.items() or [("", None)]:
        for values in itertools.product(*axes.values()):
            point = dict(zip(axes, values, strict=True))
            words = [name, *(f"{option.rpartition('.')[2]}={value}" for option, value in point.items())]
            full_name = "-".join(word for word in words if word) or "recipe"
            found[full_name] = recipes.merge(options or {}, recipes.nest(point))
    return found


def cells_of(recipe: Mapping[str, Any], overrides: Mapping[str, Any], config: AblationConfig) -> list[Cell]:
    """Every run of the grid, variants in their order, seeds in turns, so that early results cover all variants.

    Raises:
        UserError: options that are wrong, under the name of their variant.
    """
    recipe = dict(recipe)
    section = recipe.pop("ablation", None) or {}
    variants = variants_of(section)
    problems = [
        Problem("ablation.only", f"{name!r} is not a variant; choose from {', '.join(variants)}")
        for name in config.only
        if name not in variants
    ]
    if "seed" in overrides:
        problems.append(Problem("seed", "a grid has several; use ablation.seeds"))
    base_name = str(overrides.get("name", recipe.get("name", "ablation")))
    cells: dict[tuple[str, int], Cell] = {}
    for name, options in variants.items():
        if config.only and name not in config.only:
            continue
        options = dict(options)
        title = options.pop("title", None)
        share = options.pop("pretrain_share", config.pretrain_share)
        try:
            for seed in config.seeds:
                own = {**overrides, "name": f"{base_name}/{name}/seed{seed}", "seed": seed}
                run = build(PipelineRun, stage_values(_with_stages(recipe, options), own))
                run = with_budget(run, config.budget, share) if config.budget else run
                cells[name, seed] = Cell(name, str(title or title_of(run.finetune, run.pretrain)), seed, run)
        except UserError as error:
            problems.extend(problem.under(name) for problem in error.problems)
    if problems:
        raise UserError(dict.fromkeys(problems))
    return [cells[name, seed] for seed in config.seeds for name in variants if (name, seed) in cells]


def _with_stages(recipe: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """A variant's recipe. It has the stages that the variant names, and takes their options from the recipe as well;
    a variant that names none has the recipe's."""
    merged = recipes.merge(recipe, options)
    training = [stage for stage in recipes.STAGES if stage != "evaluate"]
    if any(stage in options for stage in training):
        merged = {key: value for key, value in merged.items() if key not in training or key in options}
    return {key: {} if value is None and key in training else value for key, value in merged.items()}


def check_cells(cells: Iterable[Cell]) -> Iterator[Problem]:
    """Mistakes that show beside data and run directories; a finished run must be of the same specification too."""
    loaded: dict[DataConfig, DataSplits] = {}
    for cell in cells:
        try:
            check_pipeline(cell.run, loaded)
        except UserError as error:
            for problem in error.problems:
                yield problem.under(cell.variant)
