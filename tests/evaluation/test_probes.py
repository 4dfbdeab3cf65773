"""What would make figures worthless is told."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from afa_dist.errors import UserError
from afa_dist.evaluation.evaluator import ShardEvaluator
from afa_dist.evaluation.probes import recheck
from afa_dist.evaluation.summary import warnings_of
from tests.evaluation.helpers import Wrapped, run_of, summary_of


@pytest.fixture(scope="module")
def few(digits):
    return digits.test.subset(np.arange(96))


class Coarse(nn.Module):
    """Pixels are rounded first: gradients are zero everywhere, and nothing is more robust for it."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(torch.round(x * 8) / 8)


class Random(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x + 0.05 * torch.randn_like(x))


class Counting(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return self.net(x)


def warnings(folder, net, test, **options):
    return summary_of(folder, net, test, **{"attacks": ("pgd-10",), **options})["warnings"]


def test_an_honest_network_is_not_warned_of(trained, few, tmp_path):
    assert warnings(tmp_path, trained, few) == []
    assert warnings(tmp_path, trained, few, name="l2", norm="l2", eps=0.8) == []


@pytest.mark.parametrize(
    "make,words",
    [
        (Coarse, "have no gradient"),
        (Coarse, "stand in a ball that holds every image"),
        (Coarse, "random noise breaks"),
        (Random, "answers the same images differently"),
        (Counting, "changes its own state"),
        (lambda net: Wrapped(net, lambda logits: F.softmax(logits, dim=1)), "gives probabilities"),
    ],
)
def test_networks_that_only_look_robust_are_found(quick, few, tmp_path, make, words):
    found = warnings(tmp_path, make(quick), few, eps=0.2)
    assert any(words in warning for warning in found), found


def test_a_random_network_is_told_once_and_not_sent_where_it_is_already(quick, few, tmp_path):
    found = warnings(tmp_path, Random(quick), few, eps=0.2)
    assert len(found) == 1 and "use attacks rand" in found[0]
    found = warnings(tmp_path, Random(quick), few, eps=0.2, name="rand", attacks=("rand",))
    assert len(found) == 1 and "use attacks rand" not in found[0]


def test_probes_keep_to_the_size_of_batches(quick, few, tmp_path):
    """It was chosen for the memory there is."""
    seen = []
    net = Wrapped(quick, lambda logits: logits)
    net.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    summary_of(tmp_path, net, few, attacks=("pgd-2",), batch_size=10)
    assert max(seen) == 10


def test_square_finds_what_hidden_gradients_hide(quick, few, tmp_path):
    found = warnings(tmp_path, Coarse(quick), few, eps=0.15, attacks=("apgd-ce", "square"))
    assert any(warning.startswith("square") and "may be masked" in warning for warning in found)


def test_the_rules_of_masking():
    def found(broken, attacks):
        return [text.split()[0] for text in warnings_of([*broken, *[None] * (1000 - len(broken))], attacks, {}, [])]

    assert found(["square"] * 2, ["apgd-ce", "square"]) == []  # AutoAttack's own rule: more than 0.2 points
    assert found(["square"] * 3, ["apgd-ce", "square"]) == ["square,"]
    assert found(["square"] * 500, ["square"]) == []  # alone it shows nothing
    assert found(["fab-t"] * 3, ["apgd-ce", "fab-t"]) == ["fab-t,"]
    assert found(["pgd-50x10"] * 90, ["pgd-20", "pgd-50x10"]) == []
    assert found(["pgd-50x10"] * 110, ["pgd-20", "margin-50", "pgd-50x10"]) == ["pgd-50x10"]
    assert found(["pgd-20"] * 110, ["pgd-20", "pgd-50x10"]) == []
    assert found(["clean"] * 995 + ["pgd-50x10"] * 2, ["pgd-20", "pgd-50x10"]) == []  # of five images left


def test_images_that_do_not_hold_are_found(quick, few, tmp_path):
    """Unchanged, outside the ball, outside the pixel range, and one that does hold."""
    evaluator = ShardEvaluator(run_of(tmp_path, eps=0.3, batch_size=3), quick, few, "cpu")
    x, y = evaluator.images(np.arange(96))
    with torch.no_grad():
        indices = np.flatnonzero((quick(x).argmax(1) == y).numpy())[:8]
    chosen = x[indices]
    gradient_x = chosen.clone().requires_grad_(True)
    F.cross_entropy(quick(gradient_x), y[indices]).backward()
    x_adv = (chosen + 0.3 * gradient_x.grad.sign()).clamp(0, 1)
    holds = (quick(x_adv).argmax(1) != y[indices]).tolist()
    assert sum(holds) >= 3
    assert recheck(evaluator, indices, x_adv)[1] == [int(i) for i, held in zip(indices, holds, strict=True) if not held]
    assert recheck(evaluator, indices, chosen) == (len(indices), indices.tolist())
    assert recheck(evaluator, indices, 1 - chosen)[1] == indices.tolist()
    outside = x_adv.clone()
    outside[:, 0, 0, 0] = -0.01
    assert recheck(evaluator, indices, outside)[1] == indices.tolist()


def test_networks_that_give_nonsense_are_refused(quick, few, tmp_path):
    def nan_late(logits):
        return torch.where((logits.argmax(dim=1) == 3)[:, None], torch.nan, logits)

    with pytest.raises(UserError, match=r"NaN or infinite for .* unchanged images"):
        summary_of(tmp_path, Wrapped(quick, nan_late), few)
    with pytest.raises(UserError, match="not 10 logits for each"):
        summary_of(tmp_path, Wrapped(quick, lambda logits: logits[:, :7]), few, name="seven")
