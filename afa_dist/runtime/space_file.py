"""Search spaces as files: Python with a function `space()` that gives Ray Tune's distributions, or YAML that names them."""

from __future__ import annotations

import importlib.util
import inspect
import math
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from afa_dist.config import ThreatConfig
from afa_dist.config.fields import fraction
from afa_dist.errors import Problem, UserError
from afa_dist.runtime.cluster import before_ray
from afa_dist.tuning.parameters import Choice, Parameter, Range, faults_of

NAMES = ("uniform", "quniform", "loguniform", "randint", "qrandint", "lograndint", "choice", "grid_search")
"""Distributions that a YAML file may name; their numbers are those that Ray Tune's functions take."""


def read_space(path: str, threat: ThreatConfig) -> dict[str, Parameter]:
    """The search space in a file, by dotted option; whether there are such options is not looked at.

    threat: the ball that is measured; a function `space(threat)` is given it, so that one file serves many data sets.

    Raises:
        UserError: there is no such file, its code fails, or it gives something else than bounded distributions.
    """
    file = Path(path).expanduser()
    if not path:
        raise UserError.one("space", "is needed: a file such as tune_spaces/joint.py says what to search")
    if not file.is_file():
        raise UserError.one("space", f"{path} is not a file{_near(file)}")
    before_ray()
    given = _from_yaml(file) if file.suffix in (".yaml", ".yml") else _from_python(file, threat)
    if not isinstance(given, Mapping) or not given:
        raise UserError.one("space", f"{path} gives {given!r}, not a mapping from options to distributions")
    problems, space = [], {}
    for key, value in given.items():
        if not isinstance(key, str):
            problems.append(Problem("space", f"{key!r} is not the dotted name of an option"))
            continue
        try:
            space[key] = as_parameter(value)
        except ValueError as error:
            problems.append(Problem(key, str(error)))
    if problems:
        raise UserError(problems)
    return space


def as_parameter(value: Any) -> Parameter:
    """A distribution of Ray Tune, or a list of values to choose from, as ours.

    Raises:
        ValueError: it has no bounds, or it is something else; in words for the person who wrote it.
    """
    parameter = _converted(value)
    if faults := faults_of(parameter):
        raise ValueError("; ".join(faults))
    return parameter


def _converted(value: Any) -> Parameter:
    from ray.tune.search import sample

    if isinstance(value, Mapping) and set(value) == {"grid_search"}:
        value = value["grid_search"]
    if isinstance(value, list | tuple):
        return Choice(tuple(_plain(v) for v in value))
    if isinstance(value, sample.Categorical):
        return Choice(tuple(_plain(v) for v in value.categories))
    if not isinstance(value, sample.Float | sample.Integer):
        kind = type(value).__name__
        raise ValueError(f"is {kind}, whose values cannot be known before; use a bounded distribution ({', '.join(NAMES)})")
    sampler, step = value.get_sampler(), 0.0
    whole = isinstance(value, sample.Integer)
    high = float(value.upper) - (1 if whole and not isinstance(sampler, sample.Quantized) else 0)
    if isinstance(sampler, sample.Quantized):
        sampler, step = sampler.get_sampler(), float(sampler.q)
    log = isinstance(sampler, sample.LogUniform)
    if isinstance(sampler, sample.Normal) or not math.isfinite(value.lower) or not math.isfinite(value.upper):
        raise ValueError("has no bounds, so it cannot be checked before; use uniform, loguniform or choice")
    if log and step and not (whole and step == 1):
        raise ValueError("has steps and a logarithm, which do not go together; leave out one, or list the values (choice)")
    return Range(float(value.lower), high, log, 0.0 if log else step, whole)


def _plain(value: Any) -> Any:
    """8/255 as a number; all else as it is."""
    return fraction(value) if isinstance(value, str) else value


def _from_python(file: Path, threat: ThreatConfig) -> Any:
    spec = importlib.util.spec_from_file_location(f"afa_dist_space_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise UserError.one("space", f"{file} is neither Python (.py) nor YAML (.yaml)")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        function: Callable[..., Any] | None = getattr(module, "space", None)
        if not callable(function):
            return _no_function(file)
        return function(threat) if inspect.signature(function).parameters else function()
    except UserError:
        raise
    except Exception as error:
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(file)]
        line = f", line {lines[-1]}" if lines else ""
        what = f"{file}{line}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'}"
        raise UserError.one("space", what) from error


def _no_function(file: Path) -> None:
    raise UserError.one("space", f"{file} has no function space() that gives the distributions")


def _from_yaml(file: Path) -> dict[Any, Any]:
    try:
        values = yaml.safe_load(file.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError.one("space", f"{file} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise UserError.one(
            "space", f"{file} must map options to distributions, as in 'finetune.beta: {{uniform: [1, 10]}}'"
        )
    problems, space = [], {}
    for key, value in values.items():
        try:
            space[key] = _named(value)
        except (ValueError, TypeError, AssertionError) as error:
            problems.append(Problem(str(key), str(error)))
    if problems:
        raise UserError(problems)
    return space


def _named(value: Any) -> Any:
    """What `{loguniform: [0.05, 1]}` or a list of values stands for."""
    if isinstance(value, list):
        return value
    name, arguments = next(iter(value.items())) if isinstance(value, dict) and len(value) == 1 else ("", None)
    if name not in NAMES or not isinstance(arguments, list):
        raise ValueError(
            f"{value!r} is not a list of values or one of {', '.join(NAMES)} with a list, as in {{uniform: [1, 10]}}"
        )
    if name in ("choice", "grid_search"):
        return arguments
    numbers = [_plain(argument) for argument in arguments]
    if not 2 <= len(numbers) <= 3 or not all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers):
        raise ValueError(f"{name} takes two numbers, and the step where there is one, not {arguments!r}")
    from ray import tune

    return getattr(tune, name)(*numbers)


def _near(file: Path) -> str:
    if not file.parent.is_dir():
        return ""
    found = sorted(str(other) for other in file.parent.glob("*") if other.suffix in (".py", ".yaml"))
    return f"; there are {', '.join(found[:12])}" if found else ""
