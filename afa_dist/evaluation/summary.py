"""From what became of each image to a verdict: accuracies with intervals, and what speaks against them."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from afa_dist.config.attack_names import FAST, RAND, VERSION_WORDS, PgdName, parse_attack, single_attacks, versions_in

Z_95 = 1.959963984540054
"""97.5 % quantile of the standard normal."""


def wilson_interval(right: int, images: int) -> tuple[float, float]:
    """95 % interval of an accuracy (Wilson 1927): sensible near 0 and 1, where the usual one is not."""
    if images == 0:
        return (0.0, 1.0)
    share = right / images
    spread = Z_95**2 / images
    centre = (share + spread / 2) / (1 + spread)
    half = Z_95 * math.sqrt(share * (1 - share) / images + spread / (4 * images)) / (1 + spread)
    return (max(0.0, centre - half), min(1.0, centre + half))


def accuracy(right: int, images: int) -> dict[str, Any]:
    low, high = wilson_interval(right, images)
    return {"accuracy": right / images, "interval_95": [low, high], "right": right, "images": images}


def accuracy_words(entry: Mapping[str, Any]) -> str:
    """Per cent, with the interval: 70.6 [65.7, 75.0]."""
    low, high = entry["interval_95"]
    return f"{100 * entry['accuracy']:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def accuracies(broken_by: Sequence[str | None], attacks: Sequence[str], eps: float) -> dict[str, Any]:
    """clean, then each attack: images right when clean and under it and all attacks before it.

    `autoattack`, and the names of its other versions, are there if all of their parts are, and there was
    anything to attack: what the last of these leaves, of the images that attacks before it left.
    """
    images = len(broken_by)
    right = images - sum(by == "clean" for by in broken_by)
    result = {"clean": accuracy(right, images)}
    for name in single_attacks(attacks):
        right -= sum(by == name for by in broken_by)
        result[name] = accuracy(right, images)
    for version, last in versions_in(attacks).items() if eps > 0 else ():
        result[version] = result[last]
    return result


def clean_and_last(summary: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Of a finished evaluation, the clean accuracy and that under all of its attacks."""
    found = summary["accuracies"]
    return found["clean"], found[["clean", *summary["attacks"]][-1]]


def label_of(attacks: Sequence[str], eps: float) -> str:
    """What the last accuracy may be called. What is not AutoAttack says so."""
    if eps == 0 or not attacks:
        return "clean: nothing was attacked, not AutoAttack"
    versions = [VERSION_WORDS[version] for version in versions_in(attacks)]
    singles = list(single_attacks(attacks))
    if versions:
        more = len(singles) > len(single_parts(attacks))
        return " and ".join(versions) + (" and PGD" if more else "")
    if set(singles) == set(FAST):
        return "fast: APGD-CE and APGD-T, not AutoAttack"
    return "an upper bound: not AutoAttack"


def single_parts(attacks: Sequence[str]) -> list[str]:
    """The attacks that are AutoAttack's."""
    return [name for name in single_attacks(attacks) if not isinstance(parse_attack(name), PgdName)]


def warnings_of(
    broken_by: Sequence[str | None],
    attacks: Sequence[str],
    probed: Mapping[str, Any],
    not_confirmed: Collection[int],
    not_finite: int = 0,
) -> Iterator[str]:
    """Signs that the figures flatter the network, or that they mean nothing.

    not_finite: number of adversarial images whose logits are NaN or infinite.
    """
    if not_finite:
        yield f"the network's logits are NaN or infinite on {not_finite} adversarial images; these count as broken"
    yield from _masking(broken_by, list(single_attacks(attacks)))
    yield from _probe_warnings(broken_by, probed, attacks, len(not_confirmed))
    if not_confirmed and not _is_random(probed):
        first = ", ".join(map(str, list(not_confirmed)[:5]))
        yield (
            f"{len(not_confirmed)} adversarial images do not hold when they are looked at again (image {first}): they are "
            "classified rightly then, or lie outside the ball; they count as broken"
        )


SQUARE_SHARE = 0.002
"""AutoAttack's own rule: more than 0.2 points of the images."""

STEPS_SHARE = 0.1
"""Of the images that the weaker PGD left."""


def _masking(broken_by: Sequence[str | None], attacks: Sequence[str]) -> Iterator[str]:
    counts = {name: sum(by == name for by in broken_by) for name in attacks}
    fab = "which seeks the nearest border"
    for name, what in (("square", "which needs no gradients"), ("fab-t", fab), ("fab-x5", fab)):
        before = attacks[: attacks.index(name)] if name in attacks else []
        if before and counts[name] > SQUARE_SHARE * len(broken_by):
            yield (
                f"{name}, {what}, broke {counts[name]} of {len(broken_by)} images that the attacks before it left; "
                "gradients may be masked, and the true robust accuracy lower"
            )
    left = len(broken_by) - sum(by == "clean" for by in broken_by)
    weaker, steps = "", 0
    for name in attacks:
        attack = parse_attack(name)
        plain = isinstance(attack, PgdName) and attack.objective == "pgd"
        more = isinstance(attack, PgdName) and attack.steps * attack.restarts > steps
        if plain and weaker and more and counts[name] > max(2, STEPS_SHARE * left):
            yield (
                f"{name} broke {counts[name]} of the {left} images that {weaker} left; more steps and starts would break "
                "still more, and PGD figures cannot be trusted"
            )
        if isinstance(attack, PgdName) and plain and more:
            weaker, steps = name, attack.steps * attack.restarts
        left -= counts[name]


def _is_random(probed: Mapping[str, Any]) -> bool:
    return bool(probed) and (probed["differs"] > 1e-4 or not probed["keeps_state"])


def _probe_warnings(
    broken_by: Sequence[str | None], probed: Mapping[str, Any], attacks: Sequence[str], not_confirmed: int
) -> Iterator[str]:
    if not probed:
        return
    if _is_random(probed):
        why = "answers the same images differently" if probed["differs"] > 1e-4 else "changes its own state when asked"
        text = f"the network {why}: it is not deterministic, and figures hold for one draw"
        text += f"; {not_confirmed} adversarial images were classified rightly at a second look" if not_confirmed else ""
        yield text + ("" if set(RAND) <= set(single_attacks(attacks)) else "; use attacks rand")
    if probed["probabilities"]:
        yield "the network gives probabilities, not logits: cross-entropy attacks are weak on them; leave out the softmax"
    if probed["zero_gradients"] > 0.05:
        yield f"{100 * probed['zero_gradients']:.0f} % of images have no gradient: gradient-based attacks cannot move them"
    if probed.get("huge_eps_acc", 0.0) > 0.05:
        yield (
            f"{100 * probed['huge_eps_acc']:.0f} % of images stand in a ball that holds every image (eps "
            f"{probed['huge_eps']:g}): attacks fail for another reason than robustness"
        )
    if not _is_random(probed) and (only := [index for index in probed["noise_broken"] if broken_by[index] is None]):
        yield f"random noise breaks {len(only)} of {probed['images']} images that all attacks left: attacks are too weak"
