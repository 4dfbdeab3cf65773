"""Shards of an evaluation on Ray workers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
import torch
from ray.util import ActorPool

from afa_dist.address import is_address
from afa_dist.config import EvaluateRun
from afa_dist.data.catalogue import load_part
from afa_dist.data.image_set import ImageSet
from afa_dist.evaluation.evaluator import ShardEvaluator
from afa_dist.evaluation.shards import ShardResult
from afa_dist.runtime.evaluate import model_folder
from afa_dist.runtime.paths import absolute
from afa_dist.runtime.placement import Placement
from afa_dist.runtime.sharing import SharedImages, same_images, share
from afa_dist.training.execution import keep_freed_memory


class _Worker:
    def __init__(
        self, run: EvaluateRun, model: Path, threads: int, gpu: bool, images: SharedImages | None, fingerprint: str
    ) -> None:
        torch.set_num_threads(threads)
        keep_freed_memory()
        if images is not None:
            test = images.get()["test"]
        else:
            test = same_images(load_part(run.data, run.part), fingerprint, run.data)
        if is_address(run.model):
            model = model_folder(run.model)  # the driver's copy may be on another machine
        self.evaluator = ShardEvaluator(run, model, "cuda" if gpu else "cpu", test)

    def evaluate(self, start: int) -> ShardResult:
        return self.evaluator.evaluate(start)


def evaluate_on_ray(
    run: EvaluateRun, test: ImageSet, model: Path, starts: list[int], placement: Placement
) -> Iterator[ShardResult]:
    """Yield shards as they finish, in any order."""
    worker_class = ray.remote(max_restarts=3, max_task_retries=3)(_Worker)
    options = {"num_cpus": placement.threads, "num_gpus": 1 if placement.gpu else 0}
    arguments = (absolute(run), model, placement.threads, placement.gpu, share({"test": test}), test.fingerprint())
    workers = [worker_class.options(**options).remote(*arguments) for _ in range(placement.workers)]

    def submit(worker: Any, start: int) -> Any:
        return worker.evaluate.remote(start)

    yield from ActorPool(workers).map_unordered(submit, starts)
