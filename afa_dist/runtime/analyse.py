"""An analysis from its checked specification to `analysis.json`, in this process: at once, or part by part after a kill."""

from __future__ import annotations

import importlib.metadata
import math
import time
import warnings
from collections.abc import Mapping
from typing import Any

import torch

from afa_dist.analysis.analyser import Analyser, Attacked
from afa_dist.analysis.corruptions import STRENGTHS, corruptions_for
from afa_dist.analysis.kept import Part, PartStore
from afa_dist.analysis.lipschitz import STEPS
from afa_dist.analysis.parts import COMPUTE, IMAGES_PART, RADII, TRAINING_IMAGES
from afa_dist.config import AnalyseRun
from afa_dist.config.attack_names import GRADIENT
from afa_dist.errors import Stopped, UserError
from afa_dist.evaluation.checked_file import DamagedOutcome
from afa_dist.evaluation.executor import TICK_SECONDS, OnProgress, Progress
from afa_dist.evaluation.outcome import ForeignOutcome
from afa_dist.files import write_tensors
from afa_dist.memory import keep_freed_memory
from afa_dist.runtime.analysis_checks import IDENTITY, PreparedAnalysis, facts_of, own_facts
from afa_dist.runtime.placement import Placement
from afa_dist.training.mirroring import Copier, complete
from afa_dist.training.provenance import provenance
from afa_dist.training.run_dir import OTHERS_SECONDS, RunDirectory
from afa_dist.training.warned import SignalNote, heed_signals

RESULT = "analysis/analysis.json"
ARRAYS = "analysis/arrays.safetensors"

_KEPT_ALONE = ("logits_NK", "adv_logits_NK")
"""Tensors of parts that other parts need, and no reader of the result."""

_PACKAGES = ("captum", "kornia", "scikit-learn", "numpy")


def analyse(run: AnalyseRun, prepared: PreparedAnalysis, placement: Placement, on_progress: OnProgress) -> dict[str, Any]:
    """Measure what is not yet kept, and write `analysis/analysis.json` and `arrays.safetensors`; returns the former.

    What an earlier start with the same options measured beside the parts asked for stays in the result.

    Raises:
        Stopped: a signal came; the same command goes on.
        UserError: a kept part is another analysis's, or the network fails.
    """
    directory = RunDirectory.of(run)
    with directory.locked(OTHERS_SECONDS), heed_signals() as note:
        torch.set_num_threads(placement.threads)
        keep_freed_memory()
        facts = facts_of(run, prepared)
        directory.create(run, provenance(run.seed, facts["data_fingerprint"]))
        (directory.path / "analysis").mkdir(exist_ok=True)
        directory.write_json(IDENTITY, facts)
        device = "cuda" if placement.gpu else "cpu"
        analyser = Analyser(
            run, prepared.subject.net, prepared.test, device, prepared.train, prepared.pretrained, prepared.published
        )
        store = PartStore(directory.path / "analysis" / "parts", facts, own_facts(prepared))
        parts = _Work(run, analyser, store, Copier(run, directory), on_progress, note).all(prepared.parts)
        tensors = {
            name: tensor for part in parts.values() for name, tensor in part.tensors.items() if name not in _KEPT_ALONE
        }
        write_tensors(directory.path / ARRAYS, tensors)
        result = _result(run, analyser, facts, parts)
        directory.write_json(RESULT, result)
        complete(run, directory)
        return result


class _Work:
    """The parts of one start, in order, each kept when it is done."""

    def __init__(
        self,
        run: AnalyseRun,
        analyser: Analyser,
        store: PartStore,
        copier: Copier,
        on_progress: OnProgress,
        note: SignalNote,
    ) -> None:
        self.analyser, self.store, self.copier, self.note, self.on_progress = analyser, store, copier, note, on_progress
        self.costs = costs(run, analyser)
        self.done = 0.0
        self.total = 1.0
        self.current, self.now = "", 0.0
        self.began = self.ticked = time.monotonic()
        analyser.on_pass = self._on_pass

    def all(self, asked: tuple[str, ...]) -> dict[str, Part]:
        """Every part that was asked for, and what else is kept."""
        wanted = (IMAGES_PART, *asked)
        parts = {name: self._kept(name, name in wanted) for name in COMPUTE}
        missing = [name for name in wanted if parts[name] is None]
        self.total = sum(self.costs[name] for name in missing) or 1.0
        for name in COMPUTE:
            if name in missing:
                parts[name] = self._compute(name)
            if name == IMAGES_PART:
                kept = parts[name]
                assert kept is not None
                self.analyser.attacked = Attacked(*(kept.tensors[key] for key in ("x_adv_NCHW", *_KEPT_ALONE)))
        return {name: part for name, part in parts.items() if part is not None}

    def _compute(self, name: str) -> Part:
        self.current, self.now = name, 0.0
        self._tick()
        part = COMPUTE[name](self.analyser)
        self.store.save(name, part)
        self.copier.copy()
        self.done += self.costs[name]
        self.now = 0.0
        return part

    def _kept(self, name: str, asked: bool) -> Part | None:
        try:
            return self.store.load(name, asked)
        except DamagedOutcome as error:
            warnings.warn(f"{error}; it is computed again", stacklevel=2)
            self.store.path(name).unlink()
            return None
        except ForeignOutcome as error:
            raise UserError.one("name", f"{error}; choose another name") from error

    def _on_pass(self, images: int) -> None:
        self.now += images * (GRADIENT if torch.is_grad_enabled() else 1)
        if time.monotonic() - self.ticked > TICK_SECONDS:
            self._tick()

    def _tick(self) -> None:
        if reason := self.note():
            raise Stopped(reason)
        self.ticked = time.monotonic()
        done = self.done + min(self.now, self.costs[self.current])
        spent = self.ticked - self.began
        left = spent / done * (self.total - done) if done > 0 and spent > 1 else None
        self.on_progress(Progress(self.current, done / self.total, left))


def costs(run: AnalyseRun, analyser: Analyser) -> dict[str, float]:
    """About what each part takes, in passes of one image."""
    images = len(analyser)
    attack = (GRADIENT * run.steps + 1) * images
    train = min(TRAINING_IMAGES, len(analyser.train)) if analyser.train is not None else 0
    layers = 3 if analyser.pretrained else 1
    kinds = sum(map(len, corruptions_for(analyser.test.shape[0]).values()))
    found = {
        IMAGES_PART: attack + images,
        "features": layers * (2 * images + train) + (layers - 1) * (attack + images),
        "lipschitz": 2 * (GRADIENT * STEPS + 2) * images,
        "corruptions": kinds * len(STRENGTHS) * images,
        "saliency": 2 * 16 * 51 * GRADIENT,
        "curve": len(RADII) * attack / 2,  # about half of the images fall on the way
        "calibration": 1,
        "embedding": 2 * images + 10 * images,  # t-SNE's time does not depend on the network
    }
    return {name: float(cost) for name, cost in found.items()}


def _result(run: AnalyseRun, analyser: Analyser, facts: Mapping[str, Any], parts: Mapping[str, Part]) -> dict[str, Any]:
    shown = {name: part.figures for name, part in parts.items() if part.figures}
    if "curve" in shown:
        shown["curve"] = shown["curve"]["points"]
    result: dict[str, Any] = {
        "model": run.model,
        "model_sha256": facts["model_sha256"],
        "data_fingerprint": facts["data_fingerprint"],
        "threat": facts["threat"],
        "seed": run.seed,
        "images": len(analyser),
        "steps": run.steps,
        "classes": list(analyser.test.classes),
        **shown,
        "versions": {**facts["versions"], **_versions()},
    }
    return dict(_finite(result))


def _finite(value: Any) -> Any:
    """JSON has no NaN: what cannot be said of so few images is null."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
