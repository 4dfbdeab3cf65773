"""Collectives with exact gradients, the description of the world, and randomness that ignores the number of ranks."""

from afa_dist.distributed.gather import all_reduce_sum, gather, gather_detached, world_size
from afa_dist.distributed.pulse import beat
from afa_dist.distributed.randomness import SlicedRandom, derive_seed
from afa_dist.distributed.world import World, join_group
from afa_dist.slicing import SLICE

__all__ = [
    "SLICE",
    "SlicedRandom",
    "World",
    "all_reduce_sum",
    "beat",
    "derive_seed",
    "gather",
    "gather_detached",
    "join_group",
    "world_size",
]
