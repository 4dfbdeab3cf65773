"""AFA pre-training with a linear stage: temperature and both radii of training, which together say where on the front it
ends."""

from ray import tune


def space(threat):
    return {
        "pretrain.method.temperature": tune.loguniform(0.03, 1.0),
        "pretrain.attack.eps": tune.uniform(0.25 * threat.eps, 1.5 * threat.eps),
        "finetune.attack.eps": tune.uniform(0.25 * threat.eps, 1.5 * threat.eps),
    }
