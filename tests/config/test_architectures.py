"""Names of architectures: what is taken, and what a mistyped one is answered."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afa_dist.config import ModelConfig, PretrainRun
from afa_dist.config.architectures import NAMED, nearest_depths, parse_architecture, wide_blocks
from afa_dist.errors import UserError


@given(n=st.integers(1, 60), k=st.integers(1, 40))
def test_every_valid_wide_resnet_has_depth_d_and_width_k(n, k):
    found = parse_architecture(f"wrn-{6 * n + 4}-{k}")
    assert (found.kind, found.blocks, found.width) == ("wide", (n, n, n), 16 * k)


@given(k=st.integers(1, 40))
def test_the_papers_depth_36_spreads_its_blocks(k):
    found = parse_architecture(f"wrn-36-{k}")
    assert found.blocks == (5, 5, 6)
    assert sum(found.blocks) * 2 + 4 == 36
    assert found.width == 16 * k


@given(depth=st.integers(0, 400))
def test_any_other_depth_is_refused_with_the_nearest_valid_ones(depth):
    valid = depth == 36 or (depth >= 10 and depth % 6 == 4)
    assert (wide_blocks(depth) is not None) == valid
    if valid:
        return
    with pytest.raises(ValueError, match=f"depth {depth} is not 6n") as refused:
        parse_architecture(f"wrn-{depth}-10")
    every = [d for d in range(500) if d == 36 or (d >= 10 and d % 6 == 4)]
    nearest = [max((d for d in every if d < depth), default=None), min(d for d in every if d > depth)]
    assert nearest_depths(depth) == [d for d in nearest if d is not None]
    assert str(refused.value).endswith(" and ".join(str(d) for d in nearest if d is not None))


@given(st.text(max_size=20))
def test_any_other_text_is_refused_with_all_forms(text):
    with pytest.raises(ValueError, match="wrn-DEPTH-WIDTH") as refused:
        parse_architecture(f"x{text}")
    for form in (*NAMED, "wrn-28-10", "wrn-34-10", "wrn-70-16", "wrn-36-10", "timm:NAME", "torchvision:NAME"):
        assert form in str(refused.value)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("wrn-30-10", "depth 30 is not 6n+4; the nearest valid are 28 and 34"),
        ("wrn-35-2", "the nearest valid are 34 and 36"),
        ("wrn-4-1", "the nearest valid is 10"),
        ("wrn-28-0", "at least 1"),
        ("wrn--28-10", "wrn-DEPTH-WIDTH"),
        ("wrn-28-10\n", "wrn-DEPTH-WIDTH"),
        ("wrn-2٨-10", "wrn-DEPTH-WIDTH"),
        ("wrn-" + "9" * 5000 + "-1", "wrn-DEPTH-WIDTH"),
        ("resnet51", "did you mean resnet50?"),
        ("ResNet18", "did you mean resnet18?"),
        ("timm:", "timm:resnet18"),
        ("huggingface:resnet18", "torchvision:NAME"),
        ("", "small-resnet"),
    ],
)
def test_mistakes_name_the_option_and_what_is_valid(name, words):
    with pytest.raises(UserError) as refused:
        ModelConfig(arch=name)
    (problem,) = refused.value.problems
    assert problem.where == "arch"
    assert words in problem.what


@pytest.mark.parametrize(
    ("values", "option"),
    [
        ({"arch": "wrn-28-10", "width": 16}, "width"),
        ({"arch": "timm:resnet18", "width": 16}, "width"),
        ({"arch": "torchvision:resnet18", "width": 16}, "width"),
        ({"arch": "timm:resnet18", "norm": "group"}, "norm"),
        ({"arch": "torchvision:resnet18", "norm": "group"}, "norm"),
    ],
)
def test_options_that_an_architecture_does_not_have_are_refused(values, option):
    with pytest.raises(UserError) as refused:
        ModelConfig(**values)
    assert [problem.where for problem in refused.value.problems] == [option]
    assert values["arch"] in str(refused.value)


def test_options_that_it_has_are_taken():
    ModelConfig(arch="wrn-28-10", norm="group")
    ModelConfig(arch="resnet50", norm="group", width=16)
    assert PretrainRun().model == ModelConfig(arch="small-resnet", width=0, norm="batch")


def test_help_explains_the_papers_network():
    text = ModelConfig.__dataclass_fields__["arch"].metadata["help"]
    assert "wrn-36-10" in text
    assert "5, 5, 6" in text
    for form in (*NAMED, "wrn-28-10", "wrn-34-10", "wrn-70-16", "timm:NAME", "torchvision:NAME"):
        assert form in text
