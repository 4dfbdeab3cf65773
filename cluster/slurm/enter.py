"""The first thing that runs on a node: looks whether what it is about to load can only come from this user.

submitit loads a pickle, which is as good as running it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from cluster.slurm.heard import listen

listen()  # before submitit, which takes seconds to import: a warning meanwhile must not end the job unheard

from submitit.core._submit import submitit_main  # noqa: E402

from cluster.slurm.closed import openness  # noqa: E402


def main() -> None:
    folder = Path(sys.argv[1])
    if fault := openness(folder):
        sys.exit(f"afa-dist: {fault}; nothing is loaded from there")
    submitit_main()


if __name__ == "__main__":
    main()
