"""The runs of a grid: variants of a recipe, times seeds, each a pipeline of its own."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from afa_dist.address import is_address, runs_root
from afa_dist.cli import recipes
from afa_dist.cli.pipeline import check as check_pipeline
from afa_dist.cli.pipeline import evaluation_of, models_of, stage_values, stages_of
from afa_dist.cli.specification import build, unknown_option
from afa_dist.cli.titles import title_of
from afa_dist.cli.variants import Variant, variants_of
from afa_dist.config import AblationConfig, DataConfig, PipelineRun
from afa_dist.config.budget import with_budget
from afa_dist.config.fields import hints_of
from afa_dist.data.catalogue import DataSplits
from afa_dist.errors import Problem, UserError
from afa_dist.training.run_dir import RunDirectory

MOST_ALIKE = 3
"""Mistakes of one option in different runs that are told one by one."""


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
        """Whether the pipeline ended, and all that the record reads of it is still there."""
        trained = all(RunDirectory.of(stage).finished() for stage in stages_of(self.run).values())
        evaluations = [RunDirectory.of(evaluation_of(self.run, stage)).path for stage in models_of(self.run).values()]
        measured = all((path / "evaluation" / "summary.json").exists() for path in evaluations)
        return trained and measured and (self.folder / "summary.json").exists()


@dataclasses.dataclass(frozen=True)
class Grid:
    """name: of its run directories and its results. cells: all of it. wanted: those to run now."""

    name: str
    cells: Sequence[Cell]
    wanted: Sequence[Cell]


def grid_of(recipe: Mapping[str, Any], overrides: Mapping[str, Any], config: AblationConfig) -> Grid:
    """The grid of a recipe: seeds in turns, so that early results cover all variants.

    What `config.only` and `config.seeds` leave out is not run; finished runs of it still count, so that a grid run in
    pieces has one record. What the recipe itself leaves out by `only` is no part of its grid.

    Raises:
        UserError: options that are wrong, under the name of their variant; variants that are not measured alike.
    """
    known = dict.fromkeys(
        [*hints_of(PipelineRun), "ablation", *(key for cls in recipes.STAGES.values() for key in hints_of(cls))]
    )
    problems = [unknown_option(key, known) for key in recipe if key not in known]
    variants = variants_of({key: value for key, value in recipe.items() if key in known})
    own = (recipe.get("ablation") or {}).get("only") or ()
    own = own.replace(",", " ").split() if isinstance(own, str) else own
    chosen = {*own, *config.only} if own else ()
    name = str(overrides.get("name", recipe.get("name", "ablation")))
    if option_problems := [*_option_problems(variants, overrides, config)]:
        raise UserError([*problems, *option_problems])
    variants = [variant for variant in variants if not chosen or variant.name in chosen]
    runs_dir = str(overrides.get("runs_dir", recipe.get("runs_dir", "runs")))
    if is_address(runs_dir):
        what = f"{runs_dir} is no folder, which the runs of a comparison need; copy them elsewhere by checkpoint.mirror"
        raise UserError([*problems, Problem("runs_dir", what)])
    folder = runs_root(runs_dir) / name
    cells = []
    for seed in [*config.seeds, *_finished_seeds(folder, variants, config.seeds)]:
        for variant in variants:
            try:
                cells.append(_cell(variant, seed, name, overrides, config))
            except UserError as error:
                problems.extend(problem.under(variant.name) for problem in error.problems)
    if not problems:
        problems.extend(_comparison_problems(cells))
    if problems:
        raise UserError(summarised(problems, [variant.name for variant in variants]))
    cells = _told_apart(cells)
    wanted = [c for c in cells if c.seed in config.seeds and (not config.only or c.variant in config.only)]
    return Grid(name, cells, wanted)


def _cell(variant: Variant, seed: int, name: str, overrides: Mapping[str, Any], config: AblationConfig) -> Cell:
    typed = {key: value for key, value in overrides.items() if key not in recipes.STAGES or key in variant.stages}
    typed |= {"name": f"{name}/{variant.name}/seed{seed}", "seed": seed}
    run = build(PipelineRun, stage_values(variant.recipe, typed))
    if config.budget:
        run = with_budget(run, config.budget, variant.pretrain_share or config.pretrain_share)
    return Cell(variant.name, variant.title or title_of(run.finetune, run.pretrain), seed, run)


def _finished_seeds(folder: Path, variants: Sequence[Variant], known: Sequence[int]) -> list[int]:
    """Seeds beyond `known` that some variant has a finished run of."""
    found = {
        int(path.parent.name.removeprefix("seed"))
        for variant in variants
        for path in (folder / variant.name).glob("seed*/summary.json")
        if path.parent.name.removeprefix("seed").isdecimal()
    }
    return sorted(found - set(known))


def _told_apart(cells: Sequence[Cell]) -> list[Cell]:
    """Cells whose title says which variant they are: of variants with one title, each gets its name beside it."""
    names = Counter(title for title, _ in {(cell.title, cell.variant) for cell in cells})
    full = {cell: f"{cell.title} ({cell.variant})" if names[cell.title] > 1 else cell.title for cell in cells}
    return [dataclasses.replace(cell, title=full[cell]) for cell in cells]


def _option_problems(
    variants: Sequence[Variant], overrides: Mapping[str, Any], config: AblationConfig
) -> Iterator[Problem]:
    names = [variant.name for variant in variants]
    for option, chosen in (("only", config.only), ("reference", (config.reference,) if config.reference else ())):
        for name in chosen:
            if name not in names:
                yield Problem(f"ablation.{option}", f"{name!r} is not a variant; choose from {', '.join(names)}")
    for place, values in (("", overrides), *((stage, overrides.get(stage, {})) for stage in recipes.STAGES)):
        if "seed" in values:
            yield Problem("seed", "a grid has several; use ablation.seeds").under(place)
        if place and "name" in values:
            yield Problem("name", "is set by the grid, which has a folder for each run").under(place)
    for place, values in (("", overrides), *((stage, overrides.get(stage, {})) for stage in recipes.STAGES)):
        if config.budget and "epochs" in values.get("schedule", {}):
            what = (
                f"is set by ablation.budget, which is {config.budget}; set ablation.budget to 0 to choose epochs yourself"
            )
            yield Problem("schedule.epochs", what).under(place)
    for stage in recipes.STAGES:
        if stage in overrides and not any(stage in variant.stages for variant in variants):
            yield Problem(stage, "is not a stage of any variant")


def _comparison_problems(cells: Sequence[Cell]) -> Iterator[Problem]:
    """Whether all variants are measured by the same attacks, in the same ball, on the same images."""
    first = cells[0]
    for option in ("threat", "data", "part", "attacks"):
        for cell in cells:
            if getattr(cell.run.evaluate, option) != getattr(first.run.evaluate, option):
                what = f"differs between {first.variant} and {cell.variant}, whose figures could not be compared"
                yield Problem(f"evaluate.{option}", f"{what}; set it under evaluate, for all of them")
                break


def check_cells(cells: Iterable[Cell]) -> list[Problem]:
    """Mistakes that show beside data and run directories; a finished run must be of the same specification too."""
    loaded: dict[DataConfig, DataSplits] = {}
    problems: list[Problem] = []
    for cell in cells:
        try:
            check_pipeline(cell.run, loaded)
        except UserError as error:
            problems.extend(problem.under(cell.variant) for problem in error.problems)
    return summarised(problems, [cell.variant for cell in cells])


def summarised(problems: Iterable[Problem], variants: Iterable[str]) -> list[Problem]:
    """`problems` without what repeats itself: one that several variants share is told once and without their names, and of
    those that one option has in many runs the first few are told."""
    unique = list(dict.fromkeys(problems))
    bare = {problem: _without_variant(problem, set(variants)) for problem in unique}
    counts = Counter(bare.values())
    told: dict[str, list[Problem]] = {}
    for problem in unique:
        shared = bare[problem]
        kind = told.setdefault(shared.where, [])
        one = shared if counts[shared] > 1 else problem
        if one not in kind:
            kind.append(one)
    shown = []
    for where, kind in told.items():
        shown += kind[:MOST_ALIKE]
        if len(kind) > MOST_ALIKE:
            shown.append(Problem(where, f"and {len(kind) - MOST_ALIKE} more like these, in other runs"))
    return shown


def _without_variant(problem: Problem, variants: set[str]) -> Problem:
    # The longest, since names may hold dots themselves.
    named = max((name for name in variants if problem.where.startswith(f"{name}.")), key=len, default=None)
    return problem if named is None else Problem(problem.where[len(named) + 1 :], problem.what)
