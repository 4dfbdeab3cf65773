"""Workers that go on together, or not at all."""

from __future__ import annotations

from afa_dist.distributed import World
from afa_dist.errors import TrainingError


def agree(world: World, error: Exception | None) -> None:
    """Go on only if every worker can; otherwise all stop, instead of waiting for the one that is missing.

    Raises:
        Exception: `error`, on the worker that has one; elsewhere a TrainingError with the others' messages.
    """
    texts = world.texts(str(error) if error else "")
    if error is not None:
        raise error
    if any(texts):
        raise TrainingError("; ".join(f"worker {rank}: {text}" for rank, text in enumerate(texts) if text))
