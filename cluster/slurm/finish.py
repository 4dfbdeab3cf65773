"""The end of an array: elements that failed are tried again, alone; when none is left, the parts are put together.

    python -m cluster.slurm.finish FOLDER NAME AGAIN     # runs in the queue, after all elements have ended

AGAIN: how often elements were tried again so far. What a trial again submits is another array and another one of these.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from afa_dist.cli.specification import build
from afa_dist.errors import UserError
from cluster.slurm.request import Request
from cluster.slurm.store import Store
from cluster.slurm.submit import Submitter, read_request
from cluster.slurm.supervisor import say
from cluster.snapshot import ROOT


def main(folder: Path, name: str, again: int) -> int:
    place, values = read_request(folder)
    request = build(Request, values)
    missing = [number for number in range(1, request.array + 1) if not (folder / f"{name}-{number}.done").exists()]
    submitter = Submitter(Store.at(str(folder.parents[1])), request, place, folder, ROOT)
    if missing and again < request.retries:
        say(f"of {request.array} elements {len(missing)} did not end well ({_listed(missing)}); they are tried again")
        submitter.retry(name, missing, again + 1)
        return 0
    if missing:
        say(f"elements {_listed(missing)} did not end well in {again + 1} tries (retries {request.retries}); not merged")
        return 1
    return subprocess.run(submitter.merge_command(name), check=False).returncode


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers[:20])) + (", ..." if len(numbers) > 20 else "")


if __name__ == "__main__":
    try:
        sys.exit(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
    except UserError as error:
        sys.exit(f"afa-dist: {error}")
