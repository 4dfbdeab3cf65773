"""A set of images drawn by the elements of an array."""

import pytest

from tests.diffusion.test_sampling import drawn, run_of, table_of

OPTIONS = {"count": 60, "steps": 3, "shard_size": 10, "batch_size": 5, "nearest": 0}


@pytest.mark.slurm
def test_an_array_draws_the_set_that_one_process_draws(desk, diffusion_model, tmp_path):
    options = [word for name, value in OPTIONS.items() for word in (f"--{name}", str(value))]
    draw = ["sample", "--model", diffusion_model, *options, "--scaling.threads", 1, "--name", "set"]
    refused = desk.run("generate", "--array", 2, "--", "train", "--name", "t")
    assert refused.returncode == 2 and "generate train is one job" in refused.stderr
    jobs = desk.submit("generate", "--array", 3, "--", *draw)
    assert len(jobs) == 2
    assert desk.wait(jobs[0]) == ["COMPLETED"] * 3, desk.log(jobs[0])
    assert desk.wait(jobs[1]) == ["COMPLETED"], desk.log(jobs[1])
    assert "60 images of 60 candidates" in desk.log(jobs[1])
    drawn(run_of(diffusion_model, tmp_path, name="here", **OPTIONS, data=None))
    assert table_of(desk.folder / "runs", "set").equals(table_of(tmp_path, "here"))
