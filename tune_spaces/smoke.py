"""Four combinations, to see a search work from end to end in a minute or two."""

from ray import tune


def space():
    return {
        "finetune.attack.eps": tune.choice([0.1, 0.2]),
        "finetune.beta": tune.choice([1.0, 6.0]),
    }
