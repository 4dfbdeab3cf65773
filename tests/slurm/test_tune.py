"""A search on two nodes of Slurm, unchanged."""

import json

import pytest

from tests.small_search import small_recipe

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

RECIPE = small_recipe(epochs=8)


def test_a_search_on_two_nodes_is_warned_and_goes_on(desk):
    (desk.folder / "recipe.yaml").write_text(RECIPE)
    (desk.folder / "space.yaml").write_text("finetune.attack.eps: {uniform: [0.05, 0.3]}\nfinetune.beta: [1.0, 6.0]\n")
    options = ["--config", "recipe.yaml", "--space", "space.yaml", "--max-trials", 4, "--final", "none"]
    (job,) = desk.submit("tune", "--nodes", 2, "--", *options)
    trials = desk.run_dir("s") / "trials"

    def states():
        return [json.loads(path.read_text())["state"] for path in sorted(trials.glob("*/trial.json"))]

    desk.until(lambda: "finished" in states() or list(trials.glob("*/finetune/checkpoints/step-*")), "a trial", 200)
    desk.slurm("scancel", "--signal=USR2", job)
    assert desk.wait(job) == ["COMPLETED"], desk.log(job)
    assert desk.ends(job) == ["preemption", "done"]
    assert set(states()) <= {"finished", "pruned"} and len(states()) == 4
    assert (desk.run_dir("s") / "front.csv").exists()
