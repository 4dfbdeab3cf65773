"""Recipe files: one YAML for all stages of an experiment, and what each job takes from it.

What stands at the top level of a recipe holds for every stage that has such an option; what stands under a stage's
name (pretrain, finetune, baseline, evaluate) holds for that stage and goes before. A job takes its own stage.
`base: FILE` lays a recipe over another one, all of which it goes before; a stage that is set to null there is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from afa_dist.address import below
from afa_dist.config import EvaluateRun, FinetuneRun, PipelineRun, PretrainRun, Section
from afa_dist.config.fields import hints_of, section_class
from afa_dist.errors import Problem, UserError

STAGES: dict[str, type[Section]] = {
    "pretrain": PretrainRun,
    "finetune": FinetuneRun,
    "baseline": FinetuneRun,
    "evaluate": EvaluateRun,
}


_FOLDERS = {"evaluate": "evaluate/finetune"}
"""Run directory of a stage within the recipe's, where it is not the stage's name."""

_STARTS_FROM = {"finetune": ("init", "pretrain"), "evaluate": ("model", "finetune")}
"""The option that names what a stage starts from, and the stage that makes it."""


def read_recipe(path: str, *, grid: bool = False, search: bool = False) -> dict[str, Any]:
    """Read a recipe and those it is based on; `base` is relative to the file that names it.

    grid: whether the job runs a recipe's `ablation`, the variants of a grid. search: whether it heeds its `tune`, which
    says how to search for better options; to other jobs that is no option.

    Raises:
        UserError: as `read_yaml`, files that are based on each other, or a grid for a job of one run.
    """
    recipe = _read_recipe(Path(path), ())
    if "ablation" in recipe and not grid:
        raise UserError.one("--config", f"{path} is a grid of variants; run it with jobs/ablation.py")
    return recipe if search else {key: value for key, value in recipe.items() if key != "tune"}


def _read_recipe(path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in above:
        raise UserError.one("base", f"{path} is based on itself; remove one of the `base` lines")
    values = read_yaml(str(path))
    base = values.pop("base", None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise UserError.one("base", f"{base!r} in {path} is not the path of a recipe")
    merged = lay_over(_read_recipe(path.parent / base, (*above, path.resolve())), values)
    return {key: value for key, value in merged.items() if not (key in STAGES and value is None)}


def read_yaml(path: str) -> dict[str, Any]:
    """Read one file of options.

    Raises:
        UserError: no such file, or not a YAML mapping with text keys.
    """
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
        raise UserError.one("--config", f"{path} cannot be read ({reason})") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        raise UserError.one("--config", f"{path} is not YAML{place}") from error
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise UserError.one("--config", f"{path} must hold options by name, such as 'seed: 0'")
    return values


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` laid over `below`, section by section."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def lay_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe `above` laid over the recipe `below`.

    What `above` says for all stages also goes before what `below` says for one: whoever writes `mode: full` over a recipe
    with `finetune: {mode: linear}` means it.
    """
    common = {key: value for key, value in above.items() if key not in STAGES}
    cleared = {
        key: _without(value, common) if key in STAGES and isinstance(value, Mapping) else value
        for key, value in below.items()
    }
    return merge(cleared, above)


def _without(values: Mapping[str, Any], said: Mapping[str, Any]) -> dict[str, Any]:
    """`values` less the single options that `said` has too. The name and the stages of a recipe are not options."""
    kept = {}
    for key, value in values.items():
        other = said.get(key)
        if isinstance(value, Mapping) and isinstance(other, Mapping):
            kept[key] = _without(value, other)
        elif isinstance(value, Mapping) or isinstance(other, Mapping):
            kept[key] = value  # `model` is a section in training and a path in evaluation
        elif key not in said or key == "name":
            kept[key] = value
    return kept


def nest(dotted: Mapping[str, Any]) -> dict[str, Any]:
    """`{"a.b": 1}` to `{"a": {"b": 1}}`."""
    nested: dict[str, Any] = {}
    for key, value in dotted.items():
        *sections, last = key.split(".")
        inner = nested
        for name in sections:
            inner = inner.setdefault(name, {})
        inner[last] = value
    return nested


def for_stage(recipe: Mapping[str, Any], stage: str, overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The options of one stage: a recipe's shared part < its own part < overrides.

    A recipe called N puts its stages into the run directories N/pretrain, N/finetune, ..., and each starts from the
    one before, so that the stages can be run one by one or by the pipeline, with the same result. A file without stages,
    such as the config.yaml of a run, is taken as it stands.
    """
    overrides = overrides or {}
    own = _stage_part(recipe, stage)
    common = shared(recipe, STAGES[stage])
    values = merge(real_alone(common) if stage == "evaluate" else common, own)
    if "name" in recipe and any(name in recipe for name in STAGES):
        values["name"] = own.get("name", f"{recipe['name']}/{_FOLDERS.get(stage, stage)}")
        runs_dir = overrides.get("runs_dir", values.get("runs_dir", "runs"))
        option, earlier = _STARTS_FROM.get(stage, ("", ""))
        if earlier in recipe:
            values.setdefault(option, below(str(runs_dir), str(recipe["name"]), earlier))
    return merge(values, overrides)


def real_alone(values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` without what is said of generated images, which are trained on and never measured on."""
    data = values.get("data")
    if not isinstance(data, Mapping):
        return dict(values)
    return {**values, "data": {key: value for key, value in data.items() if not key.startswith("generated")}}


def for_pipeline(recipe: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The stages of a recipe with the command line; on the command line too, a stage's own option goes before.

    A recipe without any stage has all of them. One with some has those, a classifier and its evaluation.

    Raises:
        UserError: options are given for a stage that the recipe does not have.
    """
    recipe = {key: value for key, value in recipe.items() if not (key in STAGES and value is None)}
    named = [stage for stage in STAGES if stage in recipe]
    present = [stage for stage in STAGES if stage in named or not named or stage in ("finetune", "evaluate")]
    if absent := [stage for stage in STAGES if stage in overrides and stage not in present]:
        raise UserError(
            [Problem(stage, f"is not a stage of this recipe, which has {', '.join(present)}") for stage in absent]
        )
    # What no stage knows is reported once, with the pipeline's own options.
    known = {key: value for key, value in recipe.items() if key in STAGES or _known_to_any(key)}
    whole = {"name": "pipeline", **{stage: {} for stage in present}, **known}
    if "name" in overrides:
        whole["name"] = overrides["name"]
    common = {key: value for key, value in merge({**recipe, **whole}, overrides).items() if key not in STAGES}
    own = {key: value for key, value in common.items() if key in hints_of(PipelineRun) or not _known_to_any(key)}
    for_all = {key: value for key, value in overrides.items() if key != "name" and (key in STAGES or _known_to_any(key))}
    stages = {}
    for stage in present:
        common = shared(for_all, STAGES[stage])
        typed = merge(real_alone(common) if stage == "evaluate" else common, _stage_part(overrides, stage))
        stages[stage] = for_stage(whole, stage, typed)
    return {**own, **stages}


def _stage_part(recipe: Mapping[str, Any], stage: str) -> Mapping[str, Any]:
    own = recipe.get(stage) or {}
    if not isinstance(own, Mapping):
        raise UserError.one(stage, f"is a stage with options of its own, not {own!r}")
    return own


def shared(recipe: Mapping[str, Any], cls: type[Section]) -> dict[str, Any]:
    """The part of a recipe outside its stages that concerns `cls`.

    An option that only other stages know is left out; one that no stage knows stays, to be reported.
    """
    common = {key: value for key, value in recipe.items() if key not in STAGES}
    return _concerning(common, cls, [*STAGES.values(), PipelineRun])


def _concerning(values: Mapping[str, Any], cls: type[Section], others: list[type[Section]]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for key, value in values.items():
        hint = hints_of(cls).get(key)
        knowing = [other for other in others if key in hints_of(other)]
        nested_others = [inner for other in knowing if (inner := section_class(hints_of(other)[key]))]
        if hint is None:
            if not knowing:
                kept[key] = value
            continue
        nested = section_class(hint)
        if nested is not None and isinstance(value, Mapping):
            kept[key] = _concerning(value, nested, nested_others)
        elif nested is None and isinstance(value, Mapping) and nested_others:
            continue  # `model` is a section in training and a path in evaluation
        else:
            kept[key] = value
    return kept


def _known_to_any(key: str) -> bool:
    return any(key in hints_of(cls) for cls in STAGES.values())
