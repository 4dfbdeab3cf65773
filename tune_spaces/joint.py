"""Joint AFA + TRADES: temperature, eps, TRADES' beta and AFA's weight lambda at once."""

from ray import tune


def space(threat):
    return {
        "finetune.method.temperature": tune.loguniform(0.03, 1.0),
        "finetune.attack.eps": tune.uniform(0.25 * threat.eps, 1.5 * threat.eps),
        "finetune.beta": tune.loguniform(0.5, 20.0),
        "finetune.afa_weight": tune.loguniform(0.05, 5.0),
    }
