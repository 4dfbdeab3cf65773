"""Joint AFA + TRADES: temperature, eps, TRADES' beta and AFA's weight lambda at once."""

from ray import tune


def space():
    return {
        "finetune.method.temperature": tune.loguniform(0.03, 1.0),
        "finetune.attack.eps": tune.uniform(0.05, 0.3),
        "finetune.beta": tune.loguniform(0.5, 20.0),
        "finetune.afa_weight": tune.loguniform(0.05, 5.0),
    }
