"""Mistakes as a person sees them."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence

from afa_dist.cli import recipes
from afa_dist.errors import Problem


def report(problems: Sequence[Problem], *, started: bool) -> None:
    """Print mistakes to stderr, one a line; one that several stages share is printed once, without their names."""
    problems = _without_repeats(problems)
    count = f"{len(problems)} mistake{'s' if len(problems) != 1 else ''}"
    print(f"afa-dist: {count}{'' if started else ', nothing was started'}", file=sys.stderr)
    for problem in problems:
        print(f"  {problem}", file=sys.stderr)


def _without_repeats(problems: Sequence[Problem]) -> list[Problem]:
    def bare(problem: Problem) -> Problem:
        stage, _, rest = problem.where.partition(".")
        return Problem(rest, problem.what) if stage in recipes.STAGES and rest else problem

    counts = Counter(map(bare, dict.fromkeys(problems)))
    return list(dict.fromkeys(bare(problem) if counts[bare(problem)] > 1 else problem for problem in problems))
