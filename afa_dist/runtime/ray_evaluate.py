"""Shards of an evaluation on Ray workers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
import torch
from ray.util import ActorPool

from afa_dist.config import EvaluateRun
from afa_dist.evaluation.shards import ShardResult
from afa_dist.runtime.cluster import check_resources, has_gpus
from afa_dist.runtime.evaluate import ShardEvaluator, model_folder
from afa_dist.runtime.placement import Placement


class _Worker:
    def __init__(self, run: EvaluateRun, threads: int, gpu: bool) -> None:
        torch.set_num_threads(threads)
        self.evaluator = ShardEvaluator(run, "cuda" if gpu else "cpu")

    def evaluate(self, start: int) -> ShardResult:
        return self.evaluator.evaluate(start)


def evaluate_on_ray(run: EvaluateRun, starts: list[int], placement: Placement) -> Iterator[ShardResult]:
    """Yield shards as they finish, in any order."""
    gpu = placement.gpu or has_gpus(placement.workers)
    check_resources(placement.workers, placement.threads, gpu)
    run = absolute(run)
    worker_class = ray.remote(max_restarts=3, max_task_retries=3)(_Worker)
    options = {"num_cpus": placement.threads, "num_gpus": 1 if gpu else 0}
    workers = [worker_class.options(**options).remote(run, placement.threads, gpu) for _ in range(placement.workers)]

    def submit(worker: Any, start: int) -> Any:
        return worker.evaluate.remote(start)

    yield from ActorPool(workers).map_unordered(submit, starts)


def absolute(run: EvaluateRun) -> EvaluateRun:
    """`run` with paths that mean the same in a worker's working directory."""
    path = run.data.path and str(Path(run.data.path).expanduser().resolve())
    return dataclasses.replace(
        run, model=str(model_folder(run.model)), data=dataclasses.replace(run.data, path=path)
    )
