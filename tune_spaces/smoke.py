"""Four combinations, to see a search work from end to end in a minute or two."""

from ray import tune


def space(threat):
    return {
        "finetune.attack.eps": tune.choice([threat.eps / 2, threat.eps]),
        "finetune.beta": tune.choice([1.0, 6.0]),
    }
