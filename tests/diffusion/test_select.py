"""Choosing from a set that is there is like choosing while it is drawn; others' sets get a teacher's labels."""

import copy
import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from afa_dist.config import DataConfig, ScalingConfig, SelectRun
from afa_dist.data import portions
from afa_dist.data.generated import load_generated, record_of
from afa_dist.data.stored import StoredImages
from afa_dist.data.writing import png, write_rows
from afa_dist.errors import UserError
from afa_dist.evaluation.subject import load_subject
from afa_dist.runtime.image_sets import make_set
from afa_dist.runtime.selecting_checks import check
from tests.data.preparing import prepared
from tests.data.test_prepared import write_set
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


@pytest.mark.parametrize("group", [7, 1000])
def test_rows_are_found_in_row_groups_of_any_size(published, tmp_path, monkeypatch, group):
    """Against reading everything: ranges and scattered rows over files, groups and portions of these."""
    monkeypatch.setattr(portions, "PORTION", 3)
    for path in published.glob("*.parquet"):
        pq.write_table(pq.read_table(path), tmp_path / path.name, row_group_size=group)
    pq.write_table(pq.read_table(path).slice(0, 0), tmp_path / "train-00.parquet")  # none at all
    whole = [row["bytes"] for path in sorted(published.glob("*.parquet")) for row in pq.read_table(path)["img"].to_pylist()]
    stored = copy.deepcopy(StoredImages(tmp_path))
    assert stored.shape == (1, 8, 8) and stored.classes == () and len(stored) == 120
    for rows in ([*range(120)], [0], [119], [6, 7, 8], [45, 46, 60], [2, 118], [0, 6, 7, 49, 50, 51, 119]):
        assert [image.data for image in stored.encoded(np.array(rows))] == [whole[row] for row in rows]


def test_images_that_are_damaged_missing_or_of_other_classes_are_refused(published, all_drawn, trained_run, tmp_path):
    damaged, lettered, colour = tmp_path / "damaged", tmp_path / "lettered", tmp_path / "colour"
    write_set(colour, {"train": 20, "test": 8})
    damaged.mkdir()
    for path in (all_drawn / "data").glob("*.parquet"):
        write_rows(lettered / path.name, pq.read_table(path), tuple("abcdefghij"))
        content = bytearray(path.read_bytes())
        content[len(content) // 3] ^= 1
        (damaged / path.name).write_bytes(content)
    for words, images, options in (
        ("is not a folder", tmp_path / "none", {}),
        ("holds no train", tmp_path, {}),
        ("61: keep 0.5 leaves 60 of 120 images", published, {"count": 61}),
        ("keep: 0.01 leaves none of 120", published, {"keep": 0.01}),
        (
            "compares images of 1 x 8 x 8 with real ones of",
            published,
            {"nearest": 5, "data": DataConfig(name="prepared", path=str(colour))},
        ),
        ("k, l are not those of the files: a, b, c", lettered, {"classes": ("k", "l")}),
        ("tells 0, 1, 2, .* in this order", lettered, {}),
        ("label 3 of row 3 is none of 3 classes", published, {"classes": ("a", "b", "c")}),
    ):
        with pytest.raises(UserError, match=words):
            check(select_of(images, tmp_path / "runs", trained_run, **{"keep": 0.5, **options}))
    with pytest.raises(UserError, match=r"train-\d+-of-\d+\.parquet.*is not a whole Parquet file"):
        chosen_from(select_of(damaged, tmp_path / "runs", trained_run, keep=0.5))


def write(folder, rows, **columns):
    """A set of images (C, H, W) as PNG, with label 0 unless `columns` say otherwise."""
    folder.mkdir(parents=True)
    images = [{"bytes": png(image.transpose(1, 2, 0)), "path": None} for image in rows]
    pq.write_table(pa.table({"image": images, "label": [0] * len(rows), **columns}), folder / "train.parquet")
    return folder


def test_sizes_and_colours_are_those_of_the_set_not_of_a_batch(trained_run, tmp_path):
    grey, large = np.zeros((1, 8, 8), np.uint8), np.zeros((1, 9, 9), np.uint8)
    coloured = np.stack([np.full((8, 8), shade, np.uint8) for shade in (0, 100, 200)])
    with pytest.raises(UserError, match=r"train.parquet: row 12 has channels x height x width 1 x 9 x 9, .* 1 x 8 x 8"):
        chosen_from(select_of(write(tmp_path / "a", [grey] * 12 + [large] * 8), tmp_path / "runs", trained_run, keep=0.5))
    mixed = write(tmp_path / "b", [grey] * 10 + [coloured] * 10)
    with pytest.raises(UserError, match="row 10 has channels x height x width 3 x 8 x 8"):
        chosen_from(select_of(mixed, tmp_path / "runs", trained_run, name="mixed", keep=0.5))
    for colour in (True, None):
        stored = StoredImages(mixed, colour=colour)
        assert stored.shape == (3, 8, 8) and stored.images(stored.encoded(np.arange(2))).shape == (2, 8, 8, 3)


def test_a_set_that_is_not_finished_or_not_whole_is_refused(all_drawn, tmp_path, trained_run):
    def refused(folder, words):
        with pytest.raises(UserError, match=words):
            check(select_of(folder, tmp_path / "runs", trained_run, keep=0.5))

    copy = tmp_path / "copy"
    shutil.copytree(all_drawn, copy)
    record = (copy / "data/dataset.json").read_text()
    (copy / "data/dataset.json").unlink()
    for folder in (copy, copy / "data"):
        refused(folder, "is not a finished set of images")
    files = sorted((copy / "data").glob("*.parquet"))
    for words, content in (
        ("does not list its files", {"files": {"a": 1}}),
        ("does not list its files", {"files": 3}),
        ("does not list its files", {"files": ["train"]}),
        ("does not list its files", {"files": [{"name": files[0].name}]}),
        ("lacks more.parquet", {"files": [{"name": "more.parquet", "rows": 1}]}),
    ):
        (copy / "data/dataset.json").write_text(json.dumps(content))
        refused(copy, words)
    (copy / "data/dataset.json").write_text(record)
    whole = files[1].read_bytes()
    files[1].write_bytes(whole[:-30])
    refused(copy, f"{files[1].name}: is not a whole Parquet file")
    files[1].unlink()
    refused(copy, f"lacks {files[1].name}")
    (copy / "data/dataset.json").unlink()
    (copy / "config.yaml").unlink()
    refused(copy, f"lacks {files[1].name}")  # by the names of the others


def test_images_that_change_between_two_starts_are_found(published, trained_run, tmp_path):
    folder = tmp_path / "images"
    shutil.copytree(published, folder)
    path = sorted(folder.glob("*.parquet"))[0]
    table = pq.read_table(path)
    pq.write_table(table, path, compression="none", use_dictionary=False)
    run = select_of(folder, tmp_path, trained_run, labels="scorer")
    chosen_from(dataclasses.replace(run, shard="1/2"))
    images = table["img"].to_pylist()
    images[3], images[4] = images[4], images[3]
    size = path.stat().st_size
    pq.write_table(table.set_column(1, "img", pa.array(images)), path, compression="none", use_dictionary=False)
    assert path.stat().st_size == size  # nothing that is looked at beforehand has changed
    chosen_from(dataclasses.replace(run, shard="2/2"))
    with pytest.raises(UserError, match="has changed since it was scored, row 3"):
        chosen_from(dataclasses.replace(run, merge=True))


def test_images_without_a_label_get_one_and_other_columns_are_left_alone(published, trained_run, tmp_path):
    """Labels of -1, seeds that are no numbers, and a set that was labelled by a scorer before."""
    rows = [np.zeros((1, 8, 8), np.uint8)] * 20
    unlabelled = write(tmp_path / "a", rows, label=[-1] * 20, seed=["x"] * 20)
    with pytest.raises(UserError, match="can only get that of a scorer"):
        check(select_of(unlabelled, tmp_path, trained_run, keep=0.5))
    summary = chosen_from(select_of(unlabelled, tmp_path, trained_run, labels="scorer"))
    assert summary["agreement"] is None and table_of(tmp_path)["seed"].null_count == 20
    for labels, words in (([10**8] * 20, "label 100000000 of row 0"), ([2**40] * 20, "numbers that are no classes")):
        with pytest.raises(UserError, match=words):
            check(select_of(write(tmp_path / str(labels[0]), rows, label=labels), tmp_path, trained_run, keep=0.5))
    relabelled = write(tmp_path / "b", rows, label=[1] * 20, intended=[2] * 20)
    chosen_from(select_of(relabelled, tmp_path, trained_run, name="again", keep=0.5))
    assert set(table_of(tmp_path, "again")["label"].to_pylist()) == {2}


def test_directories_of_other_runs_and_other_ways_to_write_a_path(published, trained_run, tmp_path, monkeypatch):
    folder = tmp_path / trained_run.path.name
    shutil.copytree(trained_run.path, folder)
    with pytest.raises(UserError, match="holds a run with another specification"):
        check(select_of(published, tmp_path, trained_run, name=folder.name, keep=0.5))
    monkeypatch.chdir(published.parent)
    run = select_of(published.name, tmp_path, trained_run, name="chosen", keep=0.5)
    summary = chosen_from(run)
    assert chosen_from(dataclasses.replace(run, images=str(published))) == summary


def test_a_scorer_that_gives_no_numbers_is_refused(published, trained_run, tmp_path, monkeypatch):
    """It needs no gradients, but finite logits."""
    (tmp_path / "scorers.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def forward(self, x):\n"
        "        logits = x.detach().flatten(1)[:, :10].clone()\n"
        "        return torch.where(x.flatten(1).mean(1, keepdim=True) > 0.3, logits, logits / (len(x) < 3))\n"
        "def net(): return Net()\n"
    )
    monkeypatch.chdir(tmp_path)
    run = dataclasses.replace(select_of(published, tmp_path, trained_run, keep=0.5), scorer="scorers:net")
    with pytest.raises(UserError, match="scorer: gives logits that are not finite, for image"):
        chosen_from(run)


def test_the_command_says_everything_that_is_wrong(tmp_path):
    command = [sys.executable, ROOT / "jobs/generate.py", "select", "--labels", "teacher", "--keep", "2"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    for word in ("labels", "keep"):
        assert word in done.stderr
    command = [sys.executable, ROOT / "jobs/generate.py", "select"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2 and "images: missing" in done.stderr and "scorer: missing" in done.stderr


def test_a_prepared_set_is_chosen_from_like_the_files_it_was_made_from(published, trained_run, tmp_path):
    prepared(published, tmp_path / "set", shard_size=17)
    run = select_of(tmp_path / "set", tmp_path, trained_run, name="arrow", keep=0.5)
    chosen_from(run)
    chosen_from(dataclasses.replace(run, name="parquet", images=str(published)))
    assert table_of(tmp_path, "arrow").equals(table_of(tmp_path, "parquet"))


@pytest.mark.ray
def test_workers_of_ray_choose_the_same(published, trained_run, tmp_path, ray_cluster):
    from afa_dist.runtime.cluster import session

    run = select_of(published, tmp_path, trained_run, name="here", labels="scorer")
    here = chosen_from(run)
    there = dataclasses.replace(run, name="there", scaling=ScalingConfig(workers=2, device="cpu", threads=1))
    with session(there.scaling) as placement:
        assert make_set(check(there), placement, lambda progress: None) == here
    assert table_of(tmp_path, "here").equals(table_of(tmp_path, "there"))
