"""TRADES' weight of robustness (arXiv 1901.08573): the classic way along the front, and a baseline for the others."""

from ray import tune


def space():
    return {"finetune.beta": tune.loguniform(0.5, 20.0)}
