"""Orders in which the rows of a set are visited: permutations that are known place by place."""

from __future__ import annotations

import functools

import numpy as np

from afa_dist.distributed.randomness import derive_seed

LISTED = 1 << 20
"""Up to so many rows a permutation is drawn as a whole; of more it is computed where it is asked for."""

ROUNDS = 8

BLOCK = 4096
"""Places whose rows are computed together: for as many as a batch has, the calls alone take as long."""


def shuffled(what: str, seed: int, turn: int, count: int, places: np.ndarray) -> np.ndarray:
    """Rows at some places of a random order of `count` rows, int64; the order follows from `what`, `seed` and `turn`."""
    if count <= LISTED:
        return _listed(what, seed, turn, count)[places]
    return _computed(derive_seed(what, seed, turn), count, places)


@functools.lru_cache(maxsize=4)
def _listed(what: str, seed: int, turn: int, count: int) -> np.ndarray:
    return np.random.Generator(np.random.Philox(derive_seed(what, seed, turn))).permutation(count)


def _computed(seed: int, count: int, places: np.ndarray) -> np.ndarray:
    """Block by block, for the places of a batch follow one another."""
    blocks = places // BLOCK
    if len(places) and blocks.min() == blocks.max():
        return _block(seed, count, int(blocks[0]))[places % BLOCK]
    found = np.empty(len(places), np.int64)
    for block in np.unique(blocks).tolist():
        own = blocks == block
        found[own] = _block(seed, count, block)[places[own] - block * BLOCK]
    return found


@functools.lru_cache(maxsize=8)
def _block(seed: int, count: int, block: int) -> np.ndarray:
    """A Feistel network on pairs (Black and Rogaway 2002, the generalised one): numbers below a * b, a and b about the
    square root of `count`; what lands beyond it goes through again."""
    a = int(np.ceil(np.sqrt(count)))
    b = -(-count // a)
    keys = np.random.Generator(np.random.Philox(seed)).integers(0, 2**64, ROUNDS, dtype=np.uint64)
    places = np.arange(block * BLOCK, min((block + 1) * BLOCK, count), dtype=np.uint64)
    found = _pass(places, np.uint64(a), np.uint64(b), keys)
    while (beyond := found >= count).any():
        found[beyond] = _pass(found[beyond], np.uint64(a), np.uint64(b), keys)
    return found.astype(np.int64)


def _pass(numbers: np.ndarray, a: np.uint64, b: np.uint64, keys: np.ndarray) -> np.ndarray:
    left: np.ndarray = numbers // b
    right: np.ndarray = numbers % b
    for number, key in enumerate(keys):
        if number % 2:
            right = (right + _mixed(left ^ key) % b) % b
        else:
            left = (left + _mixed(right ^ key) % a) % a
    return left * b + right


def _mixed(x: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
