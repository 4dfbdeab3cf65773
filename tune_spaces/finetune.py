"""The linear stage on an extractor that stands: its radius, learning rate and label smoothing."""

from ray import tune


def space(threat):
    return {
        "finetune.attack.eps": tune.uniform(0.25 * threat.eps, 1.5 * threat.eps),
        "finetune.optimiser.lr": tune.loguniform(0.01, 1.0),
        "finetune.label_smoothing": tune.uniform(0.0, 0.3),
    }
