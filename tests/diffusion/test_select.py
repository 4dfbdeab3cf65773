"""Choosing from a set that is there is like choosing while it is drawn; others' sets get a teacher's labels."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from afa_dist.config import DataConfig, ScalingConfig, SelectRun
from afa_dist.data.generated import load_generated, record_of
from afa_dist.data.stored import StoredImages
from afa_dist.data.writing import png, write_rows
from afa_dist.errors import UserError
from afa_dist.evaluation.subject import load_subject
from afa_dist.runtime.image_sets import make_set
from afa_dist.runtime.selecting_checks import check
from tests.diffusion.test_nearest import decoded
from tests.diffusion.test_sampling import HERE, drawn, run_of, table_of

ROOT = Path(__file__).parents[2]


def select_of(images, folder, scorer, **options):
    scaling = ScalingConfig(workers=0, device="cpu", threads=1)
    defaults = {"shard_size": 30, "batch_size": 10, "nearest": 0}
    return SelectRun(
        images=str(images), runs_dir=str(folder), scorer=str(scorer.path), scaling=scaling, **{**defaults, **options}
    )


def chosen_from(run):
    return make_set(check(run), HERE, lambda progress: None)


@pytest.fixture(scope="module")
def all_drawn(diffusion_model, tmp_path_factory):
    """80 images, all of them kept."""
    folder = tmp_path_factory.mktemp("all")
    drawn(run_of(diffusion_model, folder, count=80))
    return folder / "run"


@pytest.fixture(scope="module")
def published(digits, tmp_path_factory):
    """Test images in files as others write them: one large row group, other column names, no class names, wrong labels."""
    folder = tmp_path_factory.mktemp("published")
    images = digits.test.images_NCHW.permute(0, 2, 3, 1).numpy()
    for number, part in enumerate(np.split(np.arange(120), [50])):
        rows = [{"path": None, "bytes": png(images[row])} for row in part]
        labels = pa.array((np.arange(len(part)) % 10).astype(np.int32))
        pq.write_table(pa.table({"fine_label": labels, "img": pa.array(rows)}), folder / f"train-{number}.parquet")
    return folder


def test_choosing_later_gives_what_choosing_at_once_gives(diffusion_model, all_drawn, trained_run, digits, tmp_path):
    """Its first seeds are those of the set, its candidates the same 80 images."""
    for labels in ("intended", "scorer"):
        options = {"count": 20, "keep": 0.25, "labels": labels, "name": labels}
        drawn(run_of(diffusion_model, tmp_path / "at_once", scorer=str(trained_run.path), **options))
        summary = chosen_from(select_of(all_drawn, tmp_path / "later", trained_run, **options))
        at_once, later = (table_of(tmp_path / when, labels) for when in ("at_once", "later"))
        assert at_once.drop_columns("score").equals(later.drop_columns("score"))
        assert np.allclose(at_once["score"], later["score"], atol=1e-4)
        assert summary["made_by"]["trained_on"] == digits.real_fingerprint()


def test_a_published_set_gets_the_labels_of_a_teacher(published, trained_run, digits, tmp_path):
    run = select_of(published, tmp_path, trained_run, labels="scorer")
    summary = chosen_from(run)
    table = table_of(tmp_path)
    before = pa.concat_tables([pq.read_table(path) for path in sorted(published.glob("*.parquet"))])
    assert [row["bytes"] for row in table["image"].to_pylist()] == [row["bytes"] for row in before["img"].to_pylist()]
    assert table["intended"].to_pylist() == before["fine_label"].to_pylist()
    assert table["seed"].null_count == len(table) == summary["images"] == 120
    x = torch.stack([torch.from_numpy(decoded(row["bytes"]).copy())[None] for row in table["image"].to_pylist()])
    with torch.no_grad():
        seen = load_subject(str(trained_run.path)).net(x.float() / 255).argmax(1).tolist()
    assert table["label"].to_pylist() == table["predicted"].to_pylist() == seen
    read = load_generated(DataConfig(generated=str(tmp_path / "run")), digits.train)
    assert read.classes == digits.train.classes and read.labels_N.tolist() == seen


def test_shares_and_what_is_changed_meanwhile(published, trained_run, tmp_path):
    whole = select_of(published, tmp_path, trained_run, name="whole", keep=0.5)
    chosen_from(whole)
    parts = dataclasses.replace(whole, name="parts")
    assert [chosen_from(dataclasses.replace(parts, shard=f"{i}/2"))["shards"] for i in (1, 2)] == [2, 2]
    chosen_from(dataclasses.replace(parts, merge=True))
    assert table_of(tmp_path, "parts").equals(table_of(tmp_path, "whole"))
    assert record_of(str(tmp_path / "parts")) == record_of(str(tmp_path / "whole"))
    other = tmp_path / "other"
    other.mkdir()
    for path in published.glob("*.parquet"):
        pq.write_table(pq.read_table(path).slice(1), other / path.name)
    with pytest.raises(UserError, match="holds a set with other images;"):
        check(dataclasses.replace(parts, images=str(other)))


def test_rows_are_found_in_any_order_of_row_groups(published, tmp_path):
    """Against reading everything: ranges and scattered rows over files and groups."""
    for path in published.glob("*.parquet"):
        pq.write_table(pq.read_table(path), tmp_path / path.name, row_group_size=7)
    stored, whole = StoredImages(tmp_path), StoredImages(published)
    assert stored.shape == whole.shape == (1, 8, 8) and stored.classes == ()
    assert np.array_equal(stored.images(0, 120), whole.images(0, 120))
    for start, stop in ((0, 1), (6, 8), (45, 60), (119, 120)):
        assert np.array_equal(stored.images(start, stop), whole.images(0, 120)[start:stop])
    rows = np.array([0, 6, 7, 49, 50, 51, 119])
    assert stored.rows(rows)["image"].to_pylist() == whole.rows(np.arange(120))["image"].take(rows).to_pylist()


def test_images_that_are_damaged_missing_or_of_other_classes_are_refused(published, all_drawn, trained_run, tmp_path):
    damaged, lettered = tmp_path / "damaged", tmp_path / "lettered"
    damaged.mkdir()
    for path in (all_drawn / "data").glob("*.parquet"):
        write_rows(lettered / path.name, pq.read_table(path), tuple("abcdefghij"))
        content = bytearray(path.read_bytes())
        content[len(content) // 3] ^= 1
        (damaged / path.name).write_bytes(content)
    for words, images, options in (
        ("is not a folder", tmp_path / "none", {}),
        ("holds no train", tmp_path, {}),
        ("121 of 120 images", published, {"count": 121}),
        ("k, l are not those of the files: a, b, c", lettered, {"classes": ("k", "l")}),
        ("tells 0, 1, 2, .* in this order", lettered, {}),
        ("label 3 of row 3 is none of 3 classes", published, {"classes": ("a", "b", "c")}),
    ):
        with pytest.raises(UserError, match=words):
            check(select_of(images, tmp_path / "runs", trained_run, keep=0.5, **options))
    with pytest.raises(UserError, match=r"train-\d+-of-\d+\.parquet.*is not a whole Parquet file"):
        chosen_from(select_of(damaged, tmp_path / "runs", trained_run, keep=0.5))


def test_the_command_says_everything_that_is_wrong(tmp_path):
    command = [sys.executable, ROOT / "jobs/generate.py", "select", "--labels", "teacher", "--keep", "2"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    for word in ("labels", "keep"):
        assert word in done.stderr
    command = [sys.executable, ROOT / "jobs/generate.py", "select"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2 and "images: missing" in done.stderr and "scorer: missing" in done.stderr


@pytest.mark.ray
def test_workers_of_ray_choose_the_same(published, trained_run, tmp_path, ray_cluster):
    from afa_dist.runtime.cluster import session

    run = select_of(published, tmp_path, trained_run, name="here", labels="scorer")
    here = chosen_from(run)
    there = dataclasses.replace(run, name="there", scaling=ScalingConfig(workers=2, device="cpu", threads=1))
    with session(there.scaling) as placement:
        assert make_set(check(there), placement, lambda progress: None) == here
    assert table_of(tmp_path, "here").equals(table_of(tmp_path, "there"))
