"""What a job takes comes from its allocation, not from the machine."""

import pytest

from afa_dist.runtime.placement import cores, memory_given
from cluster.slurm.ports import FIXED, HIGHEST, LOWEST, block_size, free_block, options_of
from cluster.slurm.ray_nodes import Share

MB = 2**20


@pytest.mark.parametrize(
    ("given", "most_cores", "memory"),
    [
        ({"SLURM_CPUS_PER_TASK": "1", "SLURM_MEM_PER_NODE": "4096"}, 1, 4096 * MB),
        ({"SLURM_CPUS_ON_NODE": "1", "SLURM_MEM_PER_CPU": "512"}, 1, 512 * MB),
        ({}, 10**6, None),
    ],
)
def test_cpus_and_memory(monkeypatch, given, most_cores, memory):
    for name in ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE", "SLURM_MEM_PER_NODE", "SLURM_MEM_PER_CPU"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert 1 <= cores() <= most_cores
    assert memory_given() == memory


def test_a_node_gives_ray_its_share():
    environment = {"SLURM_CPUS_PER_TASK": "32", "SLURM_GPUS_ON_NODE": "4", "SLURM_MEM_PER_NODE": "100000"}
    options = Share.of_allocation(environment).options()
    assert options[:2] == ["--num-cpus=32", "--num-gpus=4"]
    given = [int(option.partition("=")[2]) for option in options[2:]]
    assert sum(given) == 100000 * MB and given[0] == 30000 * MB
    visible = Share.of_allocation({"SLURM_CPUS_ON_NODE": "8", "CUDA_VISIBLE_DEVICES": "0,3", "SLURM_MEM_PER_CPU": "1000"})
    assert visible == Share(8, 2, 8000)


def test_ports_come_in_blocks_that_do_not_overlap():
    import socket

    base = free_block("job.0", 4)
    assert base >= LOWEST and base + block_size(4) <= HIGHEST
    with socket.socket() as taken:
        taken.bind(("", base + 5))
        other = free_block("job.0", 4)
        assert abs(other - base) >= block_size(4)
    ports = [int(option.rpartition("=")[2]) for option in options_of(base, 4, head=True)]
    assert len(set(ports)) == len(ports) == len(FIXED) + 2
    assert min(ports) == base and max(ports) == base + block_size(4) - 1
