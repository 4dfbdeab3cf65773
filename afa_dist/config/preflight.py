"""The specification of a look at a cluster before it is trusted with a run."""

from __future__ import annotations

import dataclasses

from afa_dist.config.base import BaseRun
from afa_dist.config.fields import setting


@dataclasses.dataclass(kw_only=True, frozen=True)
class PreflightRun(BaseRun):
    """Whether a cluster is fit for runs in `runs_dir` (python -m cluster.preflight)."""

    name: str = setting("preflight", "unused: nothing is left behind")
    nodes: int = setting(0, "so many nodes there must be; 0 = any number", ge=0)
    megabytes: int = setting(64, "size of the files and of the messages that are timed, in MB", ge=1)
    free_gb: float = setting(10.0, "free space that runs_dir and each node's temporary folder must have, in GB", ge=0)
    skew_seconds: float = setting(1.0, "most that the clocks of two nodes may differ", gt=0)
    seconds: float = setting(45.0, "after so long without an answer a node counts as hung", ge=5)
