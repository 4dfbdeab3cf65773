"""The variants of a recipe: its `ablation` section read, checked, and laid over the recipe.

    ablation:
      variants:                # options laid over the recipe, by name; a variant has the training stages that it names
        trades: {finetune: {objective: trades}}
        afa: {title: AFA + linear, pretrain_share: 0.9, pretrain: {}, finetune: {mode: linear}}
      grid:                    # dotted options and the values they take, all combined
        pretrain.method.keys: [clean, both]

With both, each variant is combined with the axes that concern its stages. A recipe with neither is a single variant.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterator, Mapping
from typing import Any

from afa_dist.cli import recipes
from afa_dist.errors import Problem, UserError

TRAINING = tuple(stage for stage in recipes.STAGES if stage != "evaluate")

_NAME = re.compile(r"[\w.,=+-]+")


@dataclasses.dataclass(frozen=True)
class Variant:
    """recipe: complete, with the stages this variant has. title, pretrain_share: None where it names none."""

    name: str
    recipe: Mapping[str, Any]
    title: str | None
    pretrain_share: float | None

    @property
    def stages(self) -> tuple[str, ...]:
        """Stages that options may be given for."""
        training = tuple(stage for stage in TRAINING if stage in self.recipe)
        return (*(training or TRAINING), "finetune", "evaluate")


def variants_of(recipe: Mapping[str, Any]) -> list[Variant]:
    """All variants of `recipe`.

    Raises:
        UserError: its `ablation` section is not of the form above.
    """
    section = recipe.get("ablation") or {}
    plain = {key: value for key, value in recipe.items() if key != "ablation"}
    named, axes = section.get("variants") or {"": None}, section.get("grid") or {}
    if problems := [*_problems(named, axes)]:
        raise UserError(problems)
    found = {}
    for name, options in named.items():
        variant = _variant(name, plain, options or {})
        own = {axis: values for axis, values in axes.items() if _concerns(axis, variant.stages)}
        for values in itertools.product(*own.values()):
            point = dict(zip(own, values, strict=True))
            made = _at(variant, point)
            found[made.name] = made
    return list(found.values())


def _variant(name: str, recipe: Mapping[str, Any], options: Mapping[str, Any]) -> Variant:
    """A variant takes options of the stages that it names from the recipe too; one that names none has the recipe's."""
    rest = {key: value for key, value in options.items() if key not in ("title", "pretrain_share")}
    merged = recipes.lay_over(recipe, rest)
    if any(stage in rest for stage in TRAINING):
        merged = {key: value for key, value in merged.items() if key not in TRAINING or key in rest}
    merged = {key: {} if value is None and key in TRAINING else value for key, value in merged.items()}
    return Variant(name, merged, options.get("title"), options.get("pretrain_share"))


def _at(variant: Variant, point: Mapping[str, Any]) -> Variant:
    words = [variant.name, *(f"{axis.rpartition('.')[2]}={str(v).replace('/', '_')}" for axis, v in point.items())]
    title = variant.title
    if title is not None and point:
        title = f"{title} ({', '.join(words[1:])})"
    return dataclasses.replace(
        variant,
        name="-".join(word for word in words if word) or "recipe",
        recipe=recipes.lay_over(variant.recipe, recipes.nest(point)),
        title=title,
    )


def _concerns(axis: str, stages: tuple[str, ...]) -> bool:
    first = axis.partition(".")[0]
    return first not in recipes.STAGES or first in stages


def _problems(named: Any, axes: Any) -> Iterator[Problem]:
    if not isinstance(named, Mapping) or not all(isinstance(v, Mapping) or v is None for v in named.values()):
        yield Problem("ablation.variants", "must map names to options, such as 'trades: {finetune: {...}}'")
    else:
        for name, options in named.items():
            yield from _variant_problems(name, options or {})
    if not isinstance(axes, Mapping) or not all(isinstance(k, str) and isinstance(v, list) and v for k, v in axes.items()):
        yield Problem("ablation.grid", "must map options to lists, as in 'pretrain.method.keys: [clean, both]'")
        return
    for axis, other in itertools.permutations(axes, 2):
        if other.startswith(f"{axis}."):
            yield Problem("ablation.grid", f"{other} lies within {axis}; vary one of them")
    for axis, values in axes.items():
        if any(isinstance(value, Mapping | list) for value in values):
            yield Problem("ablation.grid", f"{axis} must take single values; use variants for whole sections")


def _variant_problems(name: Any, options: Mapping[str, Any]) -> Iterator[Problem]:
    if name != "" and not (isinstance(name, str) and _NAME.fullmatch(name)):
        yield Problem("ablation.variants", f"{name!r} cannot be a folder's name; use letters, digits, '-' and '_'")
    share = options.get("pretrain_share")
    if share is not None and not (isinstance(share, int | float) and 0 < share <= 0.99):
        yield Problem(f"{name}.pretrain_share", f"{share!r} is not allowed; it must be a number above 0 and at most 0.99")
    if not isinstance(options.get("title", ""), str):
        yield Problem(f"{name}.title", f"{options['title']!r} is not text")
