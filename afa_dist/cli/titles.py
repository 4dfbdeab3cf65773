"""What a model is called in tables: how it was trained, in the field's words."""

from __future__ import annotations

from afa_dist.config import DiffusionRun, FinetuneRun, PretrainRun, RobustRun, TrainingRun
from afa_dist.config.fields import pixels


def title_of(finetune: FinetuneRun, pretrain: PretrainRun | None = None) -> str:
    """Such as "PGD-AT", "TRADES", "AFA + linear", "AFA + full" or "AFA, then joint AFA + TRADES"."""
    loss = {"ce": "cross-entropy", "pgd": "PGD-AT", "trades": "TRADES"}[finetune.objective]
    if finetune.afa_weight > 0:
        loss = f"joint AFA + {loss}"
    if pretrain is None:
        return loss if finetune.init == "scratch" else f"{loss} from {finetune.init}"
    first = contrast_title(pretrain)
    if finetune.mode == "linear":
        return f"{first} + linear" + {"ce": " (clean)", "pgd": "", "trades": " (TRADES)"}[finetune.objective]
    return f"{first} + full" if finetune.objective == "pgd" and finetune.afa_weight == 0 else f"{first}, then {loss}"


def contrast_title(pretrain: PretrainRun) -> str:
    """SupCon without an attack, SupCon with another loss's attack, or AFA."""
    if pretrain.attack.eps == 0:
        return "SupCon"
    return {"afa": "AFA", "ce": "SupCon (CE attack)", "kl": "SupCon (KL attack)"}[pretrain.attack.objective]


def network_of(run: TrainingRun) -> str:
    """What a run trains, and against what."""
    if isinstance(run, DiffusionRun):
        widths = "-".join(str(run.network.channels * factor) for factor in run.network.multipliers)
        return f"class-conditional EDM, UNet {widths}"
    assert isinstance(run, RobustRun)
    return f"{run.model.arch}, {run.attack.norm} eps {pixels(run.attack.eps)}"
