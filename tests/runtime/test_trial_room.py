"""Where trials compute: they fit, and leave no part of a GPU unused."""

import pytest

from afa_dist.config import ScalingConfig
from afa_dist.config.tune import TuneConfig
from afa_dist.errors import UserError
from afa_dist.runtime.trial_room import trial_room


@pytest.mark.parametrize(
    ("workers", "share", "nodes", "at_once", "threads", "resources"),
    [
        (-1, 1.0, [(2, 0)], 2, 1, {"CPU": 1.0}),
        (1, 1.0, [(16, 1)], 1, 16, {"CPU": 16.0, "GPU": 1.0}),
        (1, 0.25, [(16, 1)], 4, 4, {"CPU": 4.0, "GPU": 0.25}),
        (1, 0.3, [(16, 2), (8, 1)], 9, 2, {"CPU": 2.0, "GPU": 0.3}),
        (4, 1.0, [(32, 4), (32, 4)], 2, 8, {"node:__internal_head__": 0.001}),
        (3, 1.0, [(4, 0), (4, 0)], 2, 1, {"node:__internal_head__": 0.001}),
    ],
)
def test_what_fits(workers, share, nodes, at_once, threads, resources):
    nodes = [{"CPU": float(cpus), "GPU": float(gpus)} for cpus, gpus in nodes]
    room = trial_room(ScalingConfig(workers=workers), nodes, None, TuneConfig(trial_gpus=share))
    assert (room.at_once, room.placement.threads, room.resources) == (at_once, threads, resources)


@pytest.mark.parametrize(
    ("scaling", "config", "words"),
    [
        ({"workers": 9}, {}, "9 workers x 1 CPU, for which there is no room: the nodes have 4 CPUs and 0 GPUs, 4 CPUs"),
        ({"device": "gpu"}, {}, "1 worker x 1 CPU and a GPU each"),
        ({"threads": 5}, {}, "1 worker x 5 CPUs"),
        ({"workers": 3}, {"at_once": 3}, "3 trials of 3 workers x 1 CPU are 9 workers"),
    ],
)
def test_what_does_not_is_refused(scaling, config, words):
    nodes = [{"CPU": 4.0, "GPU": 0.0}] * 2
    with pytest.raises(UserError, match=words):
        trial_room(ScalingConfig(**scaling), nodes, None, TuneConfig(**config))
