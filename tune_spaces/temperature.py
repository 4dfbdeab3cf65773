"""How warm should the contrastive loss of pre-training be? The paper says 0.1 (arXiv 2402.12187, section 4)."""

from ray import tune


def space():
    return {"pretrain.method.temperature": tune.loguniform(0.03, 1.0)}
