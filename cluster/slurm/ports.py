"""A block of ports of one's own for a Ray node."""

from __future__ import annotations

import socket
import zlib

LOWEST, HIGHEST = 10_000, 32_000
"""Below the ports that Linux gives to outgoing connections."""

FIXED = (
    "port",
    "dashboard-port",
    "ray-client-server-port",
    "node-manager-port",
    "object-manager-port",
    "dashboard-agent-listen-port",
    "dashboard-agent-grpc-port",
    "runtime-env-agent-port",
)
"""The options of `ray start` that name a port; those of workers follow them."""

OF_HEAD = FIXED[:3]


def block_size(cpus: int) -> int:
    """Ports that a node with so many CPUs may come to need: each process of Ray listens on one."""
    return len(FIXED) + 64 + 4 * cpus


def free_block(identity: str, cpus: int, attempt: int = 0) -> int:
    """The first port of a block no port of which is in use on this machine.

    identity: of whoever asks; different ones begin to look at different places. attempt: goes on from there, for those
    whose block was taken between this look and its use.

    Raises:
        OSError: no block is free.
    """
    size = block_size(cpus)
    blocks = (HIGHEST - LOWEST) // size
    first = zlib.crc32(identity.encode()) + attempt * 7
    for number in range(blocks):
        base = LOWEST + (first + number) % blocks * size
        if all(map(_is_free, range(base, base + size))):
            return base
    raise OSError(f"no {size} ports in a row are free between {LOWEST} and {HIGHEST}")


def options_of(base: int, cpus: int, head: bool) -> list[str]:
    """The options of `ray start` for the block at `base`."""
    options = []
    for offset, name in enumerate(FIXED):
        if head or name not in OF_HEAD:
            options.append(f"--{name}={base + offset}")
    first = base + len(FIXED)
    return [*options, f"--min-worker-port={first}", f"--max-worker-port={base + block_size(cpus) - 1}"]


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True
