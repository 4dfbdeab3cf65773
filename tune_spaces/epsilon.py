"""How large a ball should training see, in units of the one that is measured? Robust accuracy is measured in that one."""

from ray import tune


def space(threat):
    return {"attack.eps": tune.uniform(0.25 * threat.eps, 1.5 * threat.eps)}
