"""Whole searches on a cluster: to their end, through kills of everything that can be killed, and wider than one process."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
import yaml

from afa_dist.evaluation.summary import wilson_interval
from afa_dist.report.evaluations import read_evaluation
from afa_dist.tuning.front import front_of
from tests.nodes import nodes_of
from tests.report.browser import Seen
from tests.small_search import small_recipe

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ROOT = Path(__file__).parents[2]

RECIPE = small_recipe(epochs=4)


def command_of(folder, *arguments):
    (folder / "recipe.yaml").write_text(RECIPE)
    return [sys.executable, ROOT / "jobs/tune.py", "--config", folder / "recipe.yaml", *map(str, arguments)]


def tune(folder, *arguments):
    done = subprocess.run(
        command_of(folder, *arguments), cwd=folder, capture_output=True, text=True, check=False, timeout=300
    )
    return done.returncode, done.stdout, done.stderr


def trials_in(folder, name="s"):
    return [json.loads(path.read_text()) for path in sorted((folder / "runs" / name / "trials").glob("*/trial.json"))]


@pytest.fixture(scope="module")
def searched(ray_cluster, tmp_path_factory):
    """A search of seven trials: some diverge, the rest go to their end or are pruned; the front is measured."""
    folder = tmp_path_factory.mktemp("tune")
    (folder / "space.py").write_text(
        "from ray import tune\n"
        "def space():\n"
        "    return {'finetune.attack.eps': tune.uniform(0.05, 0.3), 'finetune.beta': tune.loguniform(0.5, 20.0),\n"
        "            'optimiser.lr': tune.choice([0.1, 1e12])}\n"
    )
    arguments = ["--space", "space.py", "--max-trials", 7, "--final-attacks", "pgd-2", "--require", "clean>=0.1"]
    code, shown, message = tune(folder, *arguments, "--pruning.margin", 0.02)
    assert code == 0, shown + message
    return folder, shown, arguments


def test_a_search_ends_with_a_front_that_is_measured(searched):
    folder, shown, _ = searched
    trials = trials_in(folder)
    assert [t["number"] for t in trials] == list(range(7))
    finished = [t for t in trials if t["state"] == "finished"]
    diverged = [t for t in trials if t["params"]["optimiser.lr"] > 1]
    assert finished and diverged
    for trial in diverged:
        assert trial["state"] in ("failed", "pruned")
    assert any("not finite" in t["reason"] for t in diverged)
    assert "threat model, fixed: linf, eps 0.2" in shown
    table = pq.read_table(folder / "runs/s/trials.parquet").to_pylist()
    assert [(row["trial"], row["state"], row["param.finetune.beta"]) for row in table] == [
        (t["number"], t["state"], t["params"]["finetune.beta"]) for t in trials
    ]
    points = [(t["clean_acc"], t["robust_acc"]) for t in finished]
    rows = [line.split(",") for line in (folder / "runs/s/front.csv").read_text().splitlines()]
    assert [int(row[0]) for row in rows[1 : 1 + len(front_of(points))]] == [finished[i]["number"] for i in front_of(points)]
    for row in rows[1:]:
        values = dict(zip(rows[0], row, strict=True))
        evaluation = read_evaluation(str(folder / f"runs/s/measured/pgd-2/{int(values['trial']):04}"))
        right, images = (evaluation.summary["accuracies"]["pgd-2"][name] for name in ("right", "images"))
        assert evaluation.eps == 0.2
        assert float(values["test_robust_low"]) == pytest.approx(wilson_interval(right, images)[0])


def test_trials_are_runs_like_any_other_measured_in_one_ball(searched):
    folder, *_ = searched
    for trial in trials_in(folder):
        run = folder / "runs/s/trials" / f"{trial['number']:04}" / "finetune"
        if trial["state"] != "finished":
            continue
        summary = json.loads((run / "summary.json").read_text())
        assert (summary["best"]["clean_acc"], summary["best"]["robust_acc"]) == (trial["clean_acc"], trial["robust_acc"])
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        validations = [row for row in rows if row["phase"] == "validation"]
        assert [row.get("pgd_steps") for row in validations] == [2, None, None, None]
        assert [trial["rungs"][str(rung)] for rung in (0, 1)] == [
            [row["clean_acc"], row["robust_acc"]] for row in validations[:2]
        ]
        config = (run / "config.yaml").read_text()
        assert "eps: 0.2" in config.partition("validation:")[2]


def test_the_chosen_ones_are_exported_with_what_was_measured(searched):
    from afa_dist.models.robust_classifier import RobustClassifier

    folder, *_ = searched
    for role in ("knee", "required"):
        best = folder / "runs/s/best" / role
        choice = json.loads((best / "choice.json").read_text())
        assert choice["command"] == f"python jobs/pipeline.py --config {folder / 'runs/s/front'}/{choice['trial']:04}.yaml"
        RobustClassifier.from_pretrained(best / "model")
        assert "pgd-2" in (best / "model" / "README.md").read_text()
    dry = subprocess.run(
        [sys.executable, ROOT / "jobs/pipeline.py", "--config", best / "recipe.yaml", "--dry-run"],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert dry.returncode == 0, dry.stderr


def test_a_finished_search_is_read_back_and_can_be_made_longer(searched):
    folder, _, arguments = searched
    before = trials_in(folder)
    started = time.monotonic()
    code, shown, message = tune(folder, *arguments, "--pruning.margin", 0.02, "--resume")
    assert code == 0, message
    assert trials_in(folder) == before
    assert "continues: 7 trials have ended, 0 go on" in shown
    assert time.monotonic() - started < 120
    code, _, message = tune(folder, *arguments, "--pruning.margin", 0.5)
    assert code == 2
    assert "pruning.margin: recorded 0.02, now 0.5" in message
    (folder / "other.yaml").write_text("finetune.beta: [1, 2]")
    code, _, message = tune(folder, *["--space", "other.yaml", *arguments[2:]], "--pruning.margin", 0.02)
    assert code == 2
    assert "holds a search of another space" in message


def test_the_page_in_a_browser(searched, browser):
    folder, *_ = searched
    path = folder / "runs/s/report.html"
    seen = Seen(browser, path)
    page = seen.page
    headings = page.locator("h2").all_text_contents()
    assert headings[:4] == ["Front", "Course of the search", "What the options did", "All trials"]
    charts = page.locator(".chart")
    assert charts.count() >= 3
    assert all(charts.nth(i).locator("svg").count() for i in range(charts.count()))
    names = page.locator("#trials tbody tr > :nth-child(1)")
    assert names.all_text_contents() == [f"{n:04}" for n in range(7)]
    page.locator("#trials thead button", has_text="trial").first.click()
    assert names.all_text_contents() == [f"{n:04}" for n in reversed(range(7))]
    assert "python jobs/pipeline.py --config" in page.locator("#front details pre").text_content()
    # The pointer tells the options of a point of the front.
    point = page.locator("#chart-0 .scatterlayer .points path").last
    point.scroll_into_view_if_needed()
    dot = point.bounding_box()
    page.mouse.move(dot["x"] + dot["width"] / 2, dot["y"] + dot["height"] / 2)
    page.locator("#chart-0 .hoverlayer .hovertext").first.wait_for(timeout=5000)
    assert "finetune.beta" in page.locator("#chart-0 .hoverlayer").text_content()
    seen.fine(path)
    narrow = Seen(browser, path, width=380, scheme="dark")
    assert narrow.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    narrow.fine(path)


SPACE = "finetune.attack.eps: {uniform: [0.05, 0.3]}\nfinetune.beta: {loguniform: [0.5, 20]}\n"


def wait_for(condition, seconds=150):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.1)


def test_a_search_whose_driver_is_killed_loses_nothing(ray_cluster, tmp_path):
    """Three times, each a little later; in the end as many trials as without kills, none of them twice."""
    (tmp_path / "space.yaml").write_text(SPACE)
    arguments = ["--space", "space.yaml", "--max-trials", 6, "--final", "none", "--pruning.rule", "none"]
    kept: dict[int, dict] = {}
    for finished in (1, 2, 4):
        with (tmp_path / "log.txt").open("a") as log:
            driver = subprocess.Popen(command_of(tmp_path, *arguments), cwd=tmp_path, stdout=log, stderr=log)
        wait_for(lambda finished=finished: sum(t["state"] == "finished" for t in trials_in(tmp_path)) >= finished)
        driver.kill()
        driver.wait()
        for trial in trials_in(tmp_path):
            if trial["number"] in kept:
                assert trial == kept[trial["number"]]
            if trial["state"] == "finished":
                kept[trial["number"]] = trial
    code, _, message = tune(tmp_path, *arguments, "--resume")
    assert code == 0, message
    trials = trials_in(tmp_path)
    assert [t["state"] for t in trials] == ["finished"] * 6
    assert sorted(t["order"] for t in trials) == list(range(6))
    for number, trial in kept.items():
        assert trials[number] == trial
    for trial in trials:  # steps of each trial's run were made once: a row for each epoch, in their order
        rows = (tmp_path / "runs/s/trials" / f"{trial['number']:04}" / "finetune/metrics.jsonl").read_text().splitlines()
        assert [json.loads(row)["epoch"] for row in rows if '"validation"' in row] == [1, 2, 3, 4]


def trial_processes():
    for process in psutil.process_iter(["cmdline", "name"]):
        title = " ".join(process.info["cmdline"] or [process.info["name"] or ""])
        if title.startswith("ray::ImplicitFunc"):
            yield process


def test_a_trial_that_is_killed_goes_on_and_a_warned_search_saves_all(ray_cluster, tmp_path):
    (tmp_path / "space.yaml").write_text(SPACE)
    arguments = ["--space", "space.yaml", "--max-trials", 2, "--final", "none", "--finetune.schedule.epochs", 30]
    arguments += ["--pruning.rule", "none"]
    with (tmp_path / "log.txt").open("w") as log:
        driver = subprocess.Popen(command_of(tmp_path, *arguments), cwd=tmp_path, stdout=log, stderr=log)
    checkpoints = tmp_path / "runs/s/trials/0000/finetune/checkpoints"
    wait_for(lambda: checkpoints.is_dir() and any(checkpoints.glob("step-*")))
    victims = list(trial_processes())
    assert victims, [p.info for p in psutil.process_iter(["cmdline"]) if "ray::" in str(p.info)]
    victims[0].send_signal(signal.SIGKILL)
    wait_for(lambda: any(len(starts_of(tmp_path, number)) == 2 for number in (0, 1)))
    driver.send_signal(signal.SIGTERM)
    assert driver.wait(timeout=90) == 75, (tmp_path / "log.txt").read_text()
    states = [t["state"] for t in trials_in(tmp_path)]  # the other one may have come to its end while one was started anew
    running = states.count("running")
    assert running >= 1 and running + states.count("finished") == 2
    code, shown, message = tune(tmp_path, *arguments)
    assert code == 0, message
    assert f"continues: {2 - running} trials have ended, {running} go on" in shown
    assert [t["state"] for t in trials_in(tmp_path)] == ["finished", "finished"]


def starts_of(folder, number):
    path = folder / f"runs/s/trials/{number:04}/finetune/provenance.json"
    return json.loads(path.read_text())["starts"] if path.is_file() else []


def test_a_trial_that_is_lost_for_good_does_not_end_the_search(ray_cluster, tmp_path):
    (tmp_path / "space.yaml").write_text("finetune.beta: [1.0, 2.0]\n")
    arguments = [
        "--space",
        "space.yaml",
        "--max-trials",
        2,
        "--final",
        "none",
        "--max-failures",
        0,
        "--pruning.rule",
        "none",
    ]
    arguments += ["--finetune.schedule.epochs", 30]
    with (tmp_path / "log.txt").open("w") as log:
        driver = subprocess.Popen(command_of(tmp_path, *arguments), cwd=tmp_path, stdout=log, stderr=log)
    checkpoints = tmp_path / "runs/s/trials/0001/finetune/checkpoints"
    wait_for(lambda: checkpoints.is_dir() and any(checkpoints.glob("step-*")))
    next(trial_processes()).send_signal(signal.SIGKILL)
    assert driver.wait(timeout=120) == 0, (tmp_path / "log.txt").read_text()
    states = sorted((t["state"], t["reason"][:4]) for t in trials_in(tmp_path))
    assert states == [("failed", "lost"), ("finished", "")]


def test_a_wide_trial_has_workers_of_its_own(ray_cluster, tmp_path):
    """Two workers a trial on two CPUs: one trial at a time, none waits for its own workers, a pruned one leaves nothing."""
    (tmp_path / "space.yaml").write_text("finetune.attack.eps: [0.2, 0.0]\nfinetune.beta: [6.0]\n")
    arguments = ["--space", "space.yaml", "--max-trials", 2, "--final", "none", "--scaling.workers", 2, "--search", "grid"]
    arguments += ["--pruning.margin", 0.0, "--schedule.batch_size", 64]
    code, shown, message = tune(tmp_path, *arguments)
    assert code == 0, shown + message
    assert "room for 1 trial at once, each in 2 workers (CPU, 1 thread each)" in shown
    trials = trials_in(tmp_path)
    assert trials[0]["state"] == "finished"
    assert trials[1]["state"] in ("finished", "pruned")
    starts = starts_of(tmp_path, 0)
    assert starts[-1]["workers"][-1]["workers"] == 2


def test_a_wide_trial_whose_process_is_killed_gets_its_workers_back(tmp_path):
    """Without a dashboard Ray would keep their places for those that are gone."""
    (tmp_path / "space.yaml").write_text("finetune.beta: [6.0, 3.0]\n")
    arguments = ["--space", "space.yaml", "--max-trials", 1, "--final", "none", "--scaling.workers", 2]
    arguments += ["--finetune.schedule.epochs", 24]
    with nodes_of(head_cpus=2) as cluster, (tmp_path / "log.txt").open("w") as log:
        driver = subprocess.Popen(command_of(tmp_path, *arguments), cwd=tmp_path, stdout=log, stderr=log, env=cluster.env)
        checkpoints = tmp_path / "runs/s/trials/0000/finetune/checkpoints"
        wait_for(lambda: checkpoints.is_dir() and any(checkpoints.glob("step-*")))
        wait_for(lambda: len(list(trial_processes())) == 1)  # those of a test before this one need a moment to vanish
        (victim,) = trial_processes()
        victim.kill()
        assert driver.wait(timeout=180) == 0, (tmp_path / "log.txt").read_text()
    assert [t["state"] for t in trials_in(tmp_path)] == ["finished"]
    assert len(starts_of(tmp_path, 0)) == 2


def test_a_population_trains_schedules(ray_cluster, tmp_path):
    (tmp_path / "space.yaml").write_text(
        "optimiser.lr: {loguniform: [0.001, 0.3]}\nfinetune.beta: {loguniform: [0.5, 20]}\n"
    )
    arguments = ["--space", "space.yaml", "--search", "pbt", "--population.size", 4, "--population.interval", 2]
    code, shown, message = tune(tmp_path, *arguments, "--final-attacks", "pgd-2")
    assert code == 0, shown + message
    trials = trials_in(tmp_path)
    assert [t["state"] for t in trials] == ["passed on"] * 4 + ["finished"] * 4
    for trial in trials[4:]:
        folder = tmp_path / "runs/s/trials"
        rows = (folder / f"{trial['number']:04}" / "finetune/metrics.jsonl").read_text().splitlines()
        assert [json.loads(row)["epoch"] for row in rows if '"validation"' in row] == [3, 4]
    parents = [t["memory"]["parent"] for t in trials[4:]]
    worst = min(range(4), key=lambda n: trials[n]["clean_acc"] + trials[n]["robust_acc"])
    assert len(set(parents)) == 3 and worst not in parents
    knee = json.loads((tmp_path / "runs/s/best/knee/choice.json").read_text())["trial"]
    schedule = yaml.safe_load((tmp_path / f"runs/s/front/{knee:04}.yaml").read_text())["schedule"]
    assert [part["epochs"] for part in schedule] == [[0.0, 2.0], [2.0, 4]]
    assert schedule[-1]["options"] == trials[knee]["params"]


def test_what_the_cluster_cannot_hold_is_refused_with_the_arithmetic(ray_cluster, tmp_path):
    (tmp_path / "space.yaml").write_text(SPACE)
    for option, words in (
        (["--scaling.threads", 3], "a trial takes 1 worker x 3 CPUs, for which there is no room"),
        (["--at-once", 3], "3 trials of 1 worker x 1 CPU are 3 workers, but the nodes have 2 CPUs"),
    ):
        code, _, message = tune(tmp_path, "--space", "space.yaml", *option)
        assert code == 2
        assert words in message
        assert not (tmp_path / "runs/s/trials").exists()


def test_it_runs_as_a_ray_job_and_leaves_when_its_time_is_up(ray_cluster, tmp_path):
    (tmp_path / "space.yaml").write_text(SPACE)
    arguments = ["--space", tmp_path / "space.yaml", "--runs_dir", tmp_path / "runs", "--final", "none"]
    arguments += ["--max-trials", 999, "--budget-hours", 27 / 3600]
    words = [str(word) for word in command_of(tmp_path, *arguments)]
    submit = [Path(sys.executable).parent / "ray", "job", "submit", "--", *words]
    done = subprocess.run(submit, capture_output=True, text=True, cwd=tmp_path, timeout=300, env=dict(os.environ))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "budget_hours 0.0075 is used up" in done.stdout
    states = {t["state"] for t in trials_in(tmp_path)}
    assert "finished" in states and len(trials_in(tmp_path)) < 999


def test_a_lost_node_costs_its_trials_what_came_after_their_checkpoints(tmp_path):
    """Two nodes of one CPU each; the one that is not the driver's is killed with the trial on it."""
    (tmp_path / "space.yaml").write_text(SPACE)
    arguments = ["--space", "space.yaml", "--max-trials", 2, "--final", "none", "--finetune.schedule.epochs", 12]
    arguments += ["--pruning.rule", "none", "--scaling.threads", 1]
    with nodes_of() as cluster, (tmp_path / "log.txt").open("w") as log:
        second = cluster.add()
        driver = subprocess.Popen(command_of(tmp_path, *arguments), cwd=tmp_path, stdout=log, stderr=log, env=cluster.env)
        saved = [tmp_path / f"runs/s/trials/{number:04}/finetune/checkpoints" for number in (0, 1)]
        wait_for(lambda: all(folder.is_dir() and any(folder.glob("step-*")) for folder in saved))
        cluster.kill(second)
        assert driver.wait(timeout=240) == 0, (tmp_path / "log.txt").read_text()
    assert [t["state"] for t in trials_in(tmp_path)] == ["finished", "finished"]
    starts = [starts_of(tmp_path, number) for number in (0, 1)]
    assert sorted(map(len, starts)) == [1, 2]
    again = max(starts, key=len)[-1]
    assert again["workers"][0]["step"] > 0
