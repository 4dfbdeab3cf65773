"""A network and the images that it is looked at with: what the parts of an analysis are made of.

Legend: N images of the analysis, B of a batch, C channels, H height, W width, K classes, F features.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import torch
from torch import nn

from afa_dist.analysis.cifar_c import CifarC
from afa_dist.analysis.pretrained import Pretrained
from afa_dist.attacks import Ball, Objective, cross_entropy, pgd
from afa_dist.config import AnalyseRun
from afa_dist.data.image_set import ImageSet, choose_evenly
from afa_dist.distributed import SlicedRandom
from afa_dist.errors import UserError
from afa_dist.evaluation.attacking import measuring
from afa_dist.models.networks import Classifier
from afa_dist.models.norm import at_least_fp32

OnPass = Callable[[int], None]
"""Called before each pass through a network, with its number of images; what it raises ends the analysis."""

Net = Callable[[torch.Tensor], torch.Tensor]


@dataclasses.dataclass(frozen=True)
class Attacked:
    """The images and what became of them by PGD on the cross-entropy, on the CPU; logits of both."""

    x_adv_NCHW: torch.Tensor
    logits_NK: torch.Tensor
    adv_logits_NK: torch.Tensor


class Analyser:
    """The classifier in evaluation mode, its test images chosen evenly by class, and passes through them in batches.

    train: training images, for neighbours; None where no part needs them. pretrained: see `Pretrained`; or None.
    attacked: filled in when the images have been attacked.
    """

    def __init__(
        self,
        run: AnalyseRun,
        net: nn.Module,
        test: ImageSet,
        device: str,
        train: ImageSet | None = None,
        pretrained: Pretrained | None = None,
        published: CifarC | None = None,
    ) -> None:
        self.run, self.test, self.train, self.pretrained, self.published = run, test, train, pretrained, published
        self.device = torch.device(device)
        self.net = net.to(self.device)
        self.ball = Ball(run.threat.norm, run.threat.eps)
        self.indices_N = choose_evenly(test.labels_N.numpy(), run.images, seed=0)
        self.y_N = test.labels_N[torch.from_numpy(self.indices_N)]
        self.attacked: Attacked | None = None
        self.on_pass: OnPass = lambda images: None
        self.watch(net.encoder if isinstance(net, Classifier) else net)
        for other in (pretrained.net, pretrained.untrained) if pretrained else ():
            self.watch(other.to(self.device).encoder)

    def watch(self, net: nn.Module) -> None:
        """Call `on_pass` before each pass through `net`."""
        net.register_forward_pre_hook(lambda module, args: self.on_pass(len(args[0])))

    def __len__(self) -> int:
        return len(self.indices_N)

    @property
    def features(self) -> Net | None:
        """Pixels to penultimate features (B, F); None for a network that is not ours."""
        net = self.net
        return (lambda x: at_least_fp32(net.encoder(x))) if isinstance(net, Classifier) else None

    def batches(self, count: int | None = None) -> Iterator[slice]:
        """Places of the images that pass together, among `count` (or all N); they depend on nothing but these numbers."""
        total = len(self) if count is None else count
        for begin in range(0, total, self.run.batch_size):
            yield slice(begin, min(begin + self.run.batch_size, total))

    def images(self, places: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """Pixels in [0, 1] (B, C, H, W) and labels (B,), on the device."""
        x = self.test.pixels(torch.from_numpy(self.indices_N[places]))
        return x.to(self.device), self.y_N[places].to(self.device)

    def clean(self) -> torch.Tensor:
        """All images (N, C, H, W), on the CPU."""
        return self.test.pixels(torch.from_numpy(self.indices_N))

    @torch.no_grad()
    def through(self, net: Net, x_NCHW: torch.Tensor) -> torch.Tensor:
        """What `net` makes of images, batch by batch, on the CPU. Call it inside `measuring`.

        Raises:
            UserError: numbers that are not finite.
        """
        out = torch.cat([net(x_NCHW[places].to(self.device)).cpu() for places in self.batches(len(x_NCHW))])
        if not bool(torch.isfinite(out).all()):
            raise UserError.one("model", "gives numbers that are NaN or infinite; nothing can be measured with it")
        return out

    def attack(self, objective_for: Callable[[torch.Tensor, torch.Tensor, slice], Objective], key: str) -> torch.Tensor:
        """x_adv (N, C, H, W), on the CPU: PGD from a random start keyed by (seed, key, place), steps of 2.5 eps / steps.

        objective_for: given x, y and the places of a batch, what is maximised there. Call it inside `measuring`.
        """
        found = []
        for places in self.batches():
            x, y = self.images(places)
            random = SlicedRandom("analyse", self.run.seed, key, start=places.start, count=len(x), device=self.device)
            start, step = self.ball.random_start(x, random), 2.5 * self.ball.eps / self.run.steps
            objective = objective_for(x, y, places)
            found.append(pgd(objective, x, self.ball, steps=self.run.steps, step_size=step, start=start).cpu())
        return torch.cat(found)

    def attack_classifier(self) -> Attacked:
        """The images that most parts look at: the last point of PGD on the cross-entropy of the classifier."""
        net = self.net
        with measuring(net):
            x_adv = self.attack(lambda x, y, places: lambda moved: cross_entropy(net(moved), y), "classifier")
            return Attacked(x_adv, self.through(net, self.clean()), self.through(net, x_adv))
