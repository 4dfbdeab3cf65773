"""A set of images is the same however it came about: at once, in parts, after kills, on other processes."""

import dataclasses
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from afa_dist.config import DataConfig, SampleRun, ScalingConfig
from afa_dist.data.generated import load_generated
from afa_dist.diffusion.sampler import Sampler
from afa_dist.diffusion.selection import chosen, drawn_for
from afa_dist.diffusion.source import open_source
from afa_dist.distributed import derive_seed
from afa_dist.errors import Stopped, UserError
from afa_dist.evaluation.subject import load_subject
from afa_dist.runtime.image_sets import make_set
from afa_dist.runtime.placement import Placement
from afa_dist.runtime.sampling_checks import check
from afa_dist.training.mirror import Mirror
from tests.diffusion.test_nearest import decoded
from tests.evaluation.helpers import killed_and_warned

ROOT = Path(__file__).parents[2]
HERE = Placement(0, False, 1)
COUNT = 90


def run_of(model, folder, **options):
    scaling = ScalingConfig(workers=0, device="cpu", threads=1)
    defaults = {"count": COUNT, "steps": 3, "shard_size": 30, "batch_size": 10, "nearest": 20, "data": DataConfig()}
    return SampleRun(model=str(model), runs_dir=str(folder), scaling=scaling, **{**defaults, **options})


def drawn(run, on_progress=lambda progress: None):
    """The summary of a set, drawn here."""
    return make_set(check(run), HERE, on_progress)


def table_of(folder, name="run"):
    """All rows of a finished set."""
    return pa.concat_tables([pq.read_table(path) for path in sorted((folder / name / "data").glob("*.parquet"))])


@pytest.fixture(scope="module")
def undisturbed(diffusion_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    return drawn(run_of(diffusion_model, folder)), table_of(folder)


def test_a_set_is_balanced_numbered_and_reads_as_training_images(undisturbed, diffusion_model, digits):
    summary, table = undisturbed
    assert summary["per_class"] == [9] * 10
    assert table["index"].to_pylist() == list(range(COUNT))
    assert table["label"].to_pylist() == table["intended"].to_pylist() == [number % 10 for number in range(COUNT)]
    assert table["seed"].to_pylist() == [derive_seed("generate", 0, number) for number in range(COUNT)]
    assert table["score"].null_count == table["predicted"].null_count == COUNT
    assert len({row["bytes"] for row in table["image"].to_pylist()}) == COUNT
    assert summary["made_by"]["trained_on"] == digits.real_fingerprint()


def test_shares_of_an_array_make_the_same_set(diffusion_model, tmp_path, undisturbed):
    run = run_of(diffusion_model, tmp_path)
    with pytest.raises(UserError, match="start with shard"):
        check(dataclasses.replace(run, merge=True))
    done = [drawn(dataclasses.replace(run, shard=f"{number}/2")) for number in (2, 1)]
    assert [part["shards"] for part in done] == [1, 2]
    (tmp_path / "run/candidates/000001.parquet").rename(tmp_path / "aside")
    with pytest.raises(UserError, match="1 of 3 shards are not finished"):
        drawn(dataclasses.replace(run, merge=True))
    (tmp_path / "aside").rename(tmp_path / "run/candidates/000001.parquet")
    summary = drawn(dataclasses.replace(run, merge=True))
    assert summary == undisturbed[0] and table_of(tmp_path).equals(undisturbed[1])


def test_machines_that_have_only_a_store_in_common(diffusion_model, tmp_path, undisturbed, monkeypatch):
    """One draws a share, another the other, a third puts them together; what is there is not copied again."""
    run = run_of(diffusion_model, f"file://{tmp_path}/store")
    copied = []
    put = Mirror._put
    monkeypatch.setattr(Mirror, "_put", lambda self, file, target: copied.append(str(target)) or put(self, file, target))
    for machine, options in (
        ("a", {"shard": "1/2"}),
        ("b", {"shard": "2/2"}),
        ("b", {"shard": "2/2"}),
        ("c", {"merge": True}),
    ):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / machine))
        summary = drawn(dataclasses.replace(run, **options))
    assert summary == undisturbed[0]
    assert table_of(tmp_path / "store").equals(undisturbed[1])
    assert sorted(name for name in copied if name.startswith("candidates/0")) == [
        f"candidates/{n:06d}.parquet" for n in range(3)
    ]
    assert {path.name for path in (tmp_path / "store/run").iterdir()} >= {"data", "summary.json", "samples.png"}


def test_damaged_shards_are_drawn_again_and_whole_ones_are_not(diffusion_model, tmp_path, undisturbed):
    run = run_of(diffusion_model, tmp_path)
    drawn(run)
    (tmp_path / "run/summary.json").unlink()
    files = sorted((tmp_path / "run/candidates").glob("*.parquet"))
    content = bytearray(files[1].read_bytes())
    content[len(content) // 3] ^= 1
    files[1].write_bytes(content)
    files[2].write_bytes(files[2].read_bytes()[:-30])
    before = files[0].stat().st_mtime_ns
    with pytest.warns(UserWarning, match="is made again"):
        summary = drawn(run)
    assert files[0].stat().st_mtime_ns == before
    assert summary == undisturbed[0] and table_of(tmp_path).equals(undisturbed[1])
    assert (tmp_path / "run/samples.png").exists()


def test_a_job_that_is_killed_and_then_warned_goes_on(diffusion_model, tmp_path):
    """From the command line; finished shards stay as they are."""
    options = {"count": 6000, "shard_size": 300, "batch_size": 100, "steps": 3}
    command = [sys.executable, ROOT / "jobs/generate.py", "sample", "--model", diffusion_model, "--runs_dir", tmp_path]
    command += [word for name, value in options.items() for word in (f"--{name}", str(value))]
    command += ["--scaling.workers", "0", "--scaling.threads", "1", "--nearest", "0"]
    seen = {}

    def kept():
        now = {path: path.stat().st_mtime_ns for path in (tmp_path / "run/candidates").glob("*.parquet")}
        assert seen.items() <= now.items()
        seen.update(now)
        return now

    killed_and_warned(command, tmp_path, kept)
    run = run_of(diffusion_model, tmp_path / "whole", **options, data=None)
    drawn(run)
    assert table_of(tmp_path).equals(table_of(tmp_path / "whole"))


def test_a_time_limit_stops_between_batches(diffusion_model, tmp_path):
    run = run_of(diffusion_model, tmp_path, time_limit=1e-9)
    with pytest.raises(Stopped, match="time_limit"):
        drawn(run)


def test_another_set_in_the_directory_is_refused_by_what_differs(diffusion_model, tmp_path):
    drawn(run_of(diffusion_model, tmp_path))
    for option, value in (("steps", 4), ("seed", 1), ("guidance", 2.0)):
        with pytest.raises(UserError, match=option):
            check(run_of(diffusion_model, tmp_path, **{option: value}))


def test_a_finished_set_is_known_without_its_candidates(diffusion_model, tmp_path):
    run = run_of(diffusion_model, tmp_path)
    summary = drawn(run)
    shutil.rmtree(tmp_path / "run/candidates")
    assert drawn(dataclasses.replace(run, nearest=0)) == summary
    with pytest.raises(UserError, match="seed"):
        check(dataclasses.replace(run, seed=1))


def test_scorers_and_models_that_do_not_fit_are_refused(diffusion_model, trained_run, tmp_path):
    scorer = str(trained_run.path)
    with pytest.raises(UserError, match=r"are not the model's"):
        check(run_of(diffusion_model, tmp_path, classes=tuple("1023456789")))
    folder = tmp_path / "model"
    shutil.copytree(diffusion_model, folder)
    record = json.loads((folder / "trained_on.json").read_text())
    (folder / "trained_on.json").write_text(json.dumps({**record, "classes": list("1023456789"), "label_dropout": 0}))
    with pytest.raises(UserError) as caught:
        check(run_of(folder, tmp_path, scorer=scorer, guidance=2.0))
    assert "in this order" in str(caught.value) and "edm.label_dropout" in str(caught.value)


def test_images_do_not_depend_on_those_they_are_drawn_with(diffusion_model):
    source = open_source(str(diffusion_model))
    sampler = Sampler(run_of(diffusion_model, "."), source.pipeline, source.trained_on["classes"], None, "cpu")
    together, alone = sampler.rows(0, 12), sampler.rows(7, 8)
    one, other = (table["image"][place].as_py()["bytes"] for table, place in ((together, 7), (alone, 0)))
    assert np.abs(decoded(one).astype(int) - decoded(other).astype(int)).max() <= 1  # rounding of another batch size
    assert together["seed"][7] == alone["seed"][0]


def test_the_best_of_each_class_are_kept_and_recorded(diffusion_model, trained_run, tmp_path, digits):
    """With a scorer, keep 0.25 and labels of the scorer or of the draw: against sorting by hand."""
    scorer = load_subject(str(trained_run.path)).net
    for labels in ("intended", "scorer"):
        run = run_of(
            diffusion_model, tmp_path, name=labels, count=20, keep=0.25, labels=labels, scorer=str(trained_run.path)
        )
        summary = drawn(run)
        candidates = pa.concat_tables(
            [pq.read_table(path) for path in sorted((tmp_path / labels / "candidates").glob("*.parquet"))]
        ).to_pylist()
        assert len(candidates) == summary["drawn"] == 80
        x = torch.stack([torch.from_numpy(decoded(row["image"]["bytes"]).copy())[None] for row in candidates]).float() / 255
        with torch.no_grad():
            log_p = scorer(x).double().log_softmax(1)
        for row, own in zip(candidates, log_p, strict=True):
            assert row["predicted"] == int(own.argmax())
            assert row["label"] == (row["predicted"] if labels == "scorer" else row["intended"])
            assert row["score"] == pytest.approx(float(own[row["label"]]), abs=1e-4)
        wanted = []
        for label in range(10):
            own = sorted(
                (row for row in candidates if row["label"] == label), key=lambda row: (-row["score"], row["index"])
            )
            wanted += [row["index"] for row in own[: len(own) // 4]]
        table = table_of(tmp_path, labels)
        assert table["index"].to_pylist() == sorted(wanted)
        record = json.loads((tmp_path / labels / "data/dataset.json").read_text())
        assert record["made_by"]["keep"] == 0.25 and record["made_by"]["scorer_sha256"]
        assert record["agreement"] == np.mean([row["predicted"] == row["intended"] for row in candidates])
        read = load_generated(DataConfig(generated=str(tmp_path / labels)), digits.train)
        assert read.labels_N.tolist() == table["label"].to_pylist()


def test_how_many_are_drawn_and_how_ties_are_broken():
    assert drawn_for(1000, 10, 0.2) == 5000
    assert drawn_for(20, 10, 0.1) == 200
    assert drawn_for(25, 10, 0.3) == 100  # three of each class, of ten each
    assert drawn_for(77, 10, 1.0) == 77
    labels, scores = np.array([0, 1, 0, 1, 0, 1, 0, 1]), np.array([-1.0, -3, -1, -2, -1, -2, -5, -9])
    assert chosen(labels, scores, 0.5, 4, 2).tolist() == [0, 2, 3, 5]
    assert chosen(labels, scores, 0.5, 3, 2).tolist() == [0, 2, 3]  # an even share of three, the first class one more
    alone = np.zeros(20, dtype=int)
    assert chosen(alone, -np.arange(20.0), 1.0, 12, 10).tolist() == list(range(12))  # never more than asked for
    uneven = np.array([0] * 2 + [1] * 9)
    assert np.bincount(uneven[chosen(uneven, np.zeros(11), 1.0, 8, 2)]).tolist() == [2, 6]


@pytest.mark.ray
def test_workers_of_ray_draw_the_same_set(diffusion_model, trained_run, tmp_path, ray_cluster):
    from afa_dist.runtime.cluster import session

    run = run_of(diffusion_model, tmp_path, count=40, scorer=str(trained_run.path), keep=0.5)
    here = drawn(dataclasses.replace(run, name="here"))
    there = dataclasses.replace(run, name="there", scaling=ScalingConfig(workers=2, device="cpu", threads=1))
    with session(there.scaling) as placement:
        assert placement.workers == 2
        assert make_set(check(there), placement, lambda progress: None) == here
    assert table_of(tmp_path, "here").equals(table_of(tmp_path, "there"))
