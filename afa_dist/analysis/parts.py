"""The parts of an analysis: each looks at the classifier from one side, and gives figures and tensors.

Legend: N images of the analysis, M of them with saliency maps, T training images, B of a batch, F features, D embedding
dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from afa_dist.analysis import cifar_c
from afa_dist.analysis.alignment import alignment, knn_accuracies, own_clean_cosine
from afa_dist.analysis.analyser import Analyser, Attacked, Net
from afa_dist.analysis.calibration import calibration
from afa_dist.analysis.corruptions import STRENGTHS, corrupt, corruptions_for
from afa_dist.analysis.embedding import planes
from afa_dist.analysis.kept import Part
from afa_dist.analysis.lipschitz import local_lipschitz, radius_of, summary
from afa_dist.analysis.saliency import IMAGES, drawn, mean_cosine, saliency_maps
from afa_dist.attacks import Ball, Objective
from afa_dist.data.image_set import ImageSet, choose_rows
from afa_dist.distributed import SlicedRandom
from afa_dist.evaluation.attacking import attack_standing, measuring
from afa_dist.evaluation.summary import accuracy
from afa_dist.losses import afa_loss
from afa_dist.models.networks import ContrastiveNet
from afa_dist.models.norm import unit

TRAINING_IMAGES = 10_000
"""Of the training images at most so many, chosen evenly by class, are neighbours."""

RADII = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0)
"""Of the curve, in units of the threat's radius."""

MADE_HERE = "made here"


def images_part(analyser: Analyser) -> Part:
    """The images, clean and attacked: what other parts look at."""
    found = analyser.attack_classifier()
    tensors = {
        "indices_N": torch.from_numpy(analyser.indices_N),
        "labels_N": analyser.y_N,
        "predictions_N": found.logits_NK.argmax(dim=1),
        "adv_predictions_N": found.adv_logits_NK.argmax(dim=1),
        "x_adv_NCHW": found.x_adv_NCHW,
        "logits_NK": found.logits_NK,
        "adv_logits_NK": found.adv_logits_NK,
    }
    return Part({}, tensors)


def features_part(analyser: Analyser) -> Part:
    """`alignment` at the penultimate layer, at the projection layer of pre-training, and before any training."""
    attacked, pretrained = _attacked(analyser), analyser.pretrained
    assert analyser.features is not None
    with measuring(analyser.net):
        figures = {"penultimate": _layer(analyser, analyser.features, attacked.x_adv_NCHW)}
    if pretrained is None:
        return Part(figures, {})
    if pretrained.net.head is not None:
        with measuring(pretrained.net):
            x_adv = _attack_embeddings(analyser, pretrained.net, pretrained.temperature, "projection")
            figures["projection"] = _layer(analyser, pretrained.net.embed, x_adv)
    with measuring(pretrained.untrained):
        x_adv = _attack_embeddings(analyser, pretrained.untrained, pretrained.temperature, "untrained")
        figures["untrained"] = _layer(analyser, pretrained.untrained.encoder, x_adv)
    return Part(figures, {})


def _layer(analyser: Analyser, net: Net, x_adv_NCHW: torch.Tensor) -> dict[str, Any]:
    assert analyser.train is not None
    rows = choose_rows(analyser.train.labels_N.numpy(), TRAINING_IMAGES)
    train_TF = unit(_through_set(analyser, net, analyser.train.subset(rows)))
    y_N, y_T = analyser.y_N, analyser.train.labels_N[torch.from_numpy(rows)]
    own_N = torch.arange(len(y_N))
    clean_NF, adv_NF = (unit(analyser.through(net, x)) for x in (analyser.clean(), x_adv_NCHW))
    found: dict[str, Any] = {
        name: {**alignment(z_NF, y_N, clean_NF, y_N, own_N), **knn_accuracies(z_NF, y_N, train_TF, y_T)}
        for name, z_NF in (("clean", clean_NF), ("adversarial", adv_NF))
    }
    found["adversarial"]["own_clean_cosine"] = own_clean_cosine(adv_NF, clean_NF)
    return found


def _through_set(analyser: Analyser, net: Net, images: ImageSet) -> torch.Tensor:
    """What `net` makes of stored images; never all of them as numbers at once."""
    batches = analyser.batches(len(images))
    return torch.cat([analyser.through(net, images.pixels(places)) for places in batches])


def _attack_embeddings(analyser: Analyser, net: ContrastiveNet, temperature: float, key: str) -> torch.Tensor:
    """x_adv by PGD on the AFA loss against the clean embeddings of all images: as pre-training attacks, with its
    defaults."""
    keys_ND = analyser.through(net.embed, analyser.clean()).to(analyser.device)
    y_N, classes = analyser.y_N.to(analyser.device), len(analyser.test.classes)

    def objective_for(x: torch.Tensor, y_B: torch.Tensor, places: slice) -> Objective:
        own_B = torch.arange(places.start, places.stop, device=x.device)
        options: dict[str, Any] = {"temperature": temperature, "classes": classes, "own_copy_A": own_B}
        return lambda moved: afa_loss(net.embed(moved), keys_ND, y_B, y_N, **options)

    return analyser.attack(objective_for, key)


def lipschitz_part(analyser: Analyser) -> Part:
    """`local_lipschitz` of logits and, where there are any, of penultimate features."""
    outputs: dict[str, Net] = {"logits": analyser.net}
    if analyser.features is not None:
        outputs["features"] = analyser.features
    figures, tensors = {}, {}
    for name, output in outputs.items():
        ratios = []
        with measuring(analyser.net):
            for places in analyser.batches():
                x, _ = analyser.images(places)
                key = ("analyse", analyser.run.seed, "lipschitz")
                noise = SlicedRandom(*key, start=places.start, count=len(x), device=x.device).normal(*x.shape[1:])
                ratios.append(local_lipschitz(output, x, noise, radius_of(analyser.ball, x)).cpu())
        tensors[f"lipschitz_{name}_N"] = torch.cat(ratios)
        figures[name] = summary(tensors[f"lipschitz_{name}_N"])
    return Part(figures, tensors)


def corruptions_part(analyser: Analyser) -> Part:
    """Accuracy on corrupted images, by family, kind and strength."""
    published = analyser.published
    members = published.families if published else {f: list(m) for f, m in corruptions_for(analyser.test.shape[0]).items()}
    families: dict[str, Any] = {}
    for family, names in members.items():
        if names:
            families[family] = {name: [*_strengths(analyser, name)] for name in names}
    means = {family: _mean([_accuracy(rows) for rows in kinds.values()]) for family, kinds in families.items()}
    everything = [_accuracy(rows) for kinds in families.values() for rows in kinds.values()]
    source = str(published.folder) if published else MADE_HERE
    return Part({"source": source, "families": families, "means": means, "mean": _mean(everything)}, {})


def _strengths(analyser: Analyser, name: str) -> Iterator[dict[str, Any]]:
    strengths = STRENGTHS if analyser.published is None else range(1, cifar_c.STRENGTHS + 1)
    for strength in strengths:
        right = 0
        for places in analyser.batches():
            indices = analyser.indices_N[places].tolist()
            x, y = analyser.images(places)
            if analyser.published is not None:
                x = analyser.published.images(name, strength, indices).to(x)
            else:
                x = corrupt(x, name, strength, analyser.run.seed, indices)
            with measuring(analyser.net), torch.no_grad():
                right += int((analyser.net(x).argmax(dim=1) == y).sum())
        yield {"strength": strength, **accuracy(right, len(analyser))}


def _accuracy(rows: list[dict[str, Any]]) -> float:
    return _mean([row["accuracy"] for row in rows])


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def saliency_part(analyser: Analyser) -> Part:
    """Maps of a few images, evenly by class, clean and attacked."""
    attacked = _attacked(analyser)
    places_M = torch.from_numpy(choose_rows(analyser.y_N.numpy(), IMAGES))
    y_M, x_adv = analyser.y_N[places_M].to(analyser.device), attacked.x_adv_NCHW[places_M]
    with measuring(analyser.net):
        batch = analyser.run.batch_size
        clean = saliency_maps(analyser.net, analyser.clean()[places_M].to(analyser.device), y_M, batch)
        adv = saliency_maps(analyser.net, x_adv.to(analyser.device), y_M, batch)
    tensors = {"saliency_indices_M": torch.from_numpy(analyser.indices_N)[places_M], "saliency_x_adv_MCHW": x_adv}
    for name in clean:
        tensors |= {f"{name}_MHW": drawn(clean[name]), f"{name}_adv_MHW": drawn(adv[name])}
    return Part({name: {"clean_adv_cosine": mean_cosine(clean[name], adv[name])} for name in clean}, tensors)


def curve_part(analyser: Analyser) -> Part:
    """Accuracy under PGD at growing radii; an image that falls stays fallen, so that the curve never rises."""
    standing_N = torch.arange(len(analyser))
    points = []
    for eps in radii(analyser.ball):
        standing_N = standing_N[~_fallen(analyser, standing_N, eps)]
        points.append({"eps": eps, **accuracy(len(standing_N), len(analyser))})
    return Part({"points": points}, {})


def radii(ball: Ball) -> list[float]:
    """The radii of the curve, ascending; an L-inf ball of radius 1 holds every image."""
    most = 1.0 if ball.norm == "linf" else float("inf")
    return sorted({round(min(most, factor * ball.eps), 12) for factor in RADII})  # 0.6 rather than 0.6000000000000001


def _fallen(analyser: Analyser, standing_S: torch.Tensor, eps: float) -> torch.Tensor:
    """Which of the images at these places fall at radius `eps`; at 0, those that are misclassified as they are."""
    fallen_S = torch.zeros(len(standing_S), dtype=torch.bool)
    ball, classes = Ball(analyser.ball.norm, eps), len(analyser.test.classes)
    name, key = f"pgd-{analyser.run.steps}", ("analyse", analyser.run.seed, "curve")
    x_NCHW = analyser.clean()
    for batch in analyser.batches(len(standing_S)):
        places = standing_S[batch]
        x, y = x_NCHW[places].to(analyser.device), analyser.y_N[places].to(analyser.device)
        with measuring(analyser.net):
            if eps == 0:
                with torch.no_grad():
                    fallen_S[batch] = (analyser.net(x).argmax(dim=1) != y).cpu()
            else:
                fell = attack_standing(analyser.net, x, y, name, ball, key, places.tolist(), classes)
                fallen_S[batch.start + fell.places_R.cpu()] = True
    return fallen_S


def calibration_part(analyser: Analyser) -> Part:
    """`calibration` of clean and attacked images."""
    attacked, y_N = _attacked(analyser), analyser.y_N
    pairs = (("clean", attacked.logits_NK), ("adversarial", attacked.adv_logits_NK))
    return Part({name: calibration(logits_NK, y_N) for name, logits_NK in pairs}, {})


def embedding_part(analyser: Analyser) -> Part:
    """Unit-length penultimate features in the plane."""
    assert analyser.features is not None
    with measuring(analyser.net):
        pictures = (analyser.clean(), _attacked(analyser).x_adv_NCHW)
        clean_NF, adv_NF = (unit(analyser.through(analyser.features, x)) for x in pictures)
    return Part({}, planes(clean_NF, adv_NF))


def _attacked(analyser: Analyser) -> Attacked:
    assert analyser.attacked is not None, "images come first"
    return analyser.attacked


IMAGES_PART = "images"

COMPUTE: dict[str, Callable[[Analyser], Part]] = {
    IMAGES_PART: images_part,
    "features": features_part,
    "lipschitz": lipschitz_part,
    "corruptions": corruptions_part,
    "saliency": saliency_part,
    "curve": curve_part,
    "calibration": calibration_part,
    "embedding": embedding_part,
}
"""Each part by name; the images come first."""
