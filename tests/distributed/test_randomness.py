"""Random numbers belong to positions in the global batch, not to ranks."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from afa_dist.distributed import SLICE, SlicedRandom, derive_seed


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**40), slices=st.integers(1, 6), cut=st.integers(0, 90), rest=st.integers(0, SLICE - 1))
def test_parts_draw_what_the_whole_draws(seed, slices, cut, rest):
    total = max(1, slices * SLICE - rest)
    first = min(cut, total - 1)
    for draw in (lambda r: r.uniform(3), lambda r: r.normal(2, 2), lambda r: r.integers(0, 9, 2), lambda r: r.uniform()):
        whole = draw(SlicedRandom("x", seed, start=0, count=total))
        head = draw(SlicedRandom("x", seed, start=0, count=first)) if first else whole[:0]
        tail = draw(SlicedRandom("x", seed, start=first, count=total - first))
        assert torch.equal(torch.cat([head, tail]), whole)


def test_keys_and_draws_differ():
    def first(*key):
        return SlicedRandom(*key, start=0, count=32).uniform(4)

    assert not torch.equal(first("a", 1), first("a", 2))
    assert not torch.equal(first("a", 1), first("b", 1))
    assert not torch.equal(first("a", 1)[:16], first("a", 1)[16:])
    random = SlicedRandom("a", 1, start=0, count=32)
    assert not torch.equal(random.uniform(4), random.uniform(4))


def test_seeds_do_not_run_into_each_other():
    assert derive_seed("a", 11, 1) != derive_seed("a", 1, 11)
    assert derive_seed("a", 1) != derive_seed("a", "1")
    assert derive_seed("order", 0, 0) == derive_seed("order", 0, 0)
