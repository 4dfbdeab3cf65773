"""The losses and the aids of training. Every default that the AFA paper leaves open is ours and can be changed here."""

from __future__ import annotations

import dataclasses
from typing import Literal

from afa_dist.config.fields import Section, setting


@dataclasses.dataclass(kw_only=True, frozen=True)
class MethodConfig(Section):
    """The AFA loss. What the paper leaves open is an option; docs/method.md says why each default was chosen."""

    temperature: float = setting(0.1, "softmax temperature of the contrastive loss, no unit", gt=0)
    keys: Literal["clean", "adversarial", "both"] = setting("clean", "which images of the batch are compared against")
    anchors: Literal["adversarial", "both"] = setting(
        "adversarial", "which images are pulled towards their class: adversarial ones only, or clean ones as well"
    )
    own_copy: Literal["positive", "excluded"] = setting(
        "positive", "the other version (clean or adversarial) of the anchor's own image: a positive, or left out"
    )
    denominator: Literal["all", "negatives"] = setting(
        "all", "keys under the fraction: all, or those of other classes plus the one positive (SupRobCon)"
    )
    layer: Literal["projection", "penultimate"] = setting(
        "projection", "features that are aligned: the projection head's, or the encoder's own (then no head is built)"
    )
    views: Literal["same", "independent"] = setting(
        "same",
        "augmentation of the clean version: the one that is attacked, or another draw (SupCon's two views; then a clean "
        "run has attack.eps 0, keys both, anchors both)",
    )


_DECAY = "share of the average that a step keeps, such as 0.995; less in the first steps, (1+t)/(10+t); 0 = off"


@dataclasses.dataclass(kw_only=True, frozen=True)
class AverageConfig(Section):
    """Exponential moving average of the weights; with it, the average is what is validated and exported."""

    decay: float = setting(0.999, _DECAY, ge=0, le=0.999999)


@dataclasses.dataclass(kw_only=True, frozen=True)
class EmaConfig(AverageConfig):
    """The average of a network with BatchNorm."""

    decay: float = setting(0.0, _DECAY, ge=0, le=0.999999)
    bn: Literal["copied", "recomputed"] = setting(
        "copied",
        "BatchNorm statistics of the average: a copy of the trained network's, or computed anew with the averaged weights "
        "over an epoch of clean training images, whenever the average is validated or saved",
    )


@dataclasses.dataclass(kw_only=True, frozen=True)
class GeneratedConfig(Section):
    """What generated images (data.generated) count for in the loss."""

    weight: float = setting(1.0, "weight of a generated image in all losses; a real one has 1", gt=0)


@dataclasses.dataclass(kw_only=True, frozen=True)
class GeneratedLabelsConfig(GeneratedConfig):
    """And how far their labels are trusted."""

    label_smoothing: float | None = setting(
        None, "share of a generated image's label spread over all classes; none = label_smoothing", ge=0, le=0.9999
    )


@dataclasses.dataclass(kw_only=True, frozen=True)
class AwpConfig(Section):
    """Adversarial weight perturbation (Wu et al., 2004.05884): the gradient is taken where the weights are worst."""

    gamma: float = setting(
        0.0, "length of the weights' perturbation relative to each layer's weights, such as 0.005; 0 = off", ge=0, le=1
    )
    start: float = setting(0.0, "share of training before it sets in", ge=0, le=0.99)
