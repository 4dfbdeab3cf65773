"""The jobs that a submission comes to: one, an array, or a chain of stages."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from afa_dist.address import below
from cluster.slurm.jobs import Job
from cluster.slurm.request import Request


@dataclasses.dataclass(frozen=True)
class Planned:
    """One job to be submitted. after: names of those of the plan that must have ended well before. array: so many elements.
    light: puts together what others have computed.
    """

    name: str
    job: Job
    after: tuple[str, ...] = ()
    array: int = 0
    light: bool = False


def plan(script: str, job: Job, request: Request) -> list[Planned]:
    """The jobs that a submission comes to, in an order in which each stands behind those it waits for."""
    if script == "pipeline" and request.chain:
        return _chain(job, request)
    return [Planned(script, job, array=request.array if job.in_shards else 0)]


def _chain(job: Job, request: Request) -> list[Planned]:
    """A job a stage, evaluations as arrays if that is asked for; the last one puts the table and the report together."""
    config = job.config
    found: list[Planned] = []
    trained = [("pretrain", "pretrain"), ("finetune", "finetune"), ("baseline", "finetune")]
    for name, script in trained:
        if config.get(name):
            after = ("pretrain",) if name == "finetune" and config.get("pretrain") else ()
            found.append(Planned(name, job.stage(script, name), after))
    stages = [one.name for one in found if one.name != "pretrain"]
    if request.array:
        for stage in stages:
            found.append(Planned(f"evaluate-{stage}", _evaluation(config, stage), (stage,), array=request.array))
        stages = [f"evaluate-{stage}" for stage in stages]
    return [*found, Planned("pipeline", job, tuple(stages), light=bool(request.array))]


def _evaluation(config: Mapping[str, Any], stage: str) -> Job:
    """The evaluation of a stage's model, as the pipeline would make it."""
    model = below(str(config["runs_dir"]), str(config["name"]), stage)
    return Job("evaluate", {**config["evaluate"], "model": model, "name": f"{config['name']}/evaluate/{stage}"})
