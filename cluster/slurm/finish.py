"""The end of an array: elements that were lost are tried again, alone; when none is left, the parts are put together.

    python -m cluster.slurm.finish FOLDER NAME AGAIN     # runs in the queue, after all elements have ended

AGAIN: how often elements were tried again so far. What a trial again submits is another array and another one of these.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from afa_dist.cli.specification import build
from afa_dist.errors import UserError
from cluster.slurm.attempts import REFUSED
from cluster.slurm.commands import forget_own_job
from cluster.slurm.here import own_id, placed, say
from cluster.slurm.request import Request
from cluster.slurm.store import Store
from cluster.slurm.submit import Submitter, read_request
from cluster.snapshot import ROOT


def main(folder: Path, name: str, again: int) -> int:
    place, values = read_request(folder)
    request = build(Request, values)
    states = {number: state_of(folder / f"{name}-{number}.state") for number in range(1, request.array + 1)}
    missing = [number for number, state in states.items() if state.get("kind") != "done"]
    submitter = Submitter(Store.at(str(folder.parents[1])), request, place, folder, ROOT)
    if hopeless := [word for number in missing if (word := why_hopeless(states[number]))]:
        say(f"of {request.array} elements {len(missing)} did not end well ({_listed(missing)}), and are not tried again: ")
        say("; ".join(dict.fromkeys(hopeless)))
        return 1
    if missing and again < request.retries:
        say(f"of {request.array} elements {len(missing)} did not end well ({_listed(missing)}); they are tried again")
        own = own_id()
        forget_own_job(os.environ)
        return submitter.retry(name, missing, again + 1, own)
    if missing:
        say(f"elements {_listed(missing)} did not end well in {again + 1} tries (retries {request.retries}); not merged")
        return 1
    return subprocess.run(placed(submitter.merge_command(name)), check=False).returncode


def state_of(path: Path) -> dict[str, Any]:
    """What the last start of an element left; empty if it never began."""
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError):
        return {}


def why_hopeless(state: Mapping[str, Any]) -> str:
    """Why an element that did not end well would not do so either if it were tried again; empty if it may."""
    if not state:
        return "some never began: they were cancelled, or what they build on failed"
    if state.get("kind") == "cancelled":
        return "some were cancelled"
    return "some were refused by the job itself, see their logs" if state.get("code") == REFUSED else ""


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers[:20])) + (", ..." if len(numbers) > 20 else "")


if __name__ == "__main__":
    try:
        sys.exit(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
    except UserError as error:
        sys.exit(f"afa-dist: {error}")
