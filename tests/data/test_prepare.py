"""Sets of every kind are prepared as they are read directly, the same by any workers and after any kills."""

import dataclasses
import gzip
import io
import json
import shutil
import sys
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from afa_dist.cli.preparing import check, main, with_flags
from afa_dist.config import DataConfig
from afa_dist.data import layout
from afa_dist.data.catalogue import load_splits
from afa_dist.data.preparing import histogram
from afa_dist.data.sources.find import open_source
from afa_dist.data.sources.trees import Tree
from afa_dist.errors import UnreachableError, UserError
from afa_dist.runtime.prepare import prepare
from tests.cifar_files import write_cifar
from tests.data.preparing import HERE, prepared, run_of
from tests.data.test_folders import CLASSES, save, tiny, tree
from tests.data.test_parquet import pixels_of, png
from tests.data.test_parquet import write as write_parquet
from tests.data.test_svhn import write as write_svhn
from tests.evaluation.helpers import killed_and_warned

ROOT = Path(__file__).parents[2]


def read(folder, name="prepared", **options):
    """Training and test images in memory, and the classes."""
    splits = load_splits(DataConfig(name=name, path=str(folder) if folder else None, held_out=0, **options))
    return [*splits.train.in_memory(), *splits.test.in_memory(), splits.train.classes]


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one[:4], other[:4], strict=True)) and one[4] == other[4]


def svhn(folder):
    folder.mkdir()
    write_svhn(folder / "train_32x32.mat")
    write_svhn(folder / "test_32x32.mat")


def cifar(folder, kind, patch):
    files = [(torch.from_numpy(pixels_of(9, (3, 32, 32), seed)), torch.arange(9) % 3) for seed in range(3)]
    write_cifar(kind, folder, patch, train=files[:2], test=files[2:], classes=CLASSES)


def tables(folder):
    folder.mkdir()
    for split, seed in (("train", 0), ("test", 1)):
        images = pixels_of(18, (6, 5, 3), seed)
        for part in range(2):
            rows = range(part * 9, part * 9 + 9)
            write_parquet(folder / f"{split}-{part}.parquet", [png(images[i]) for i in rows], np.arange(9) % 3)


KINDS = {"svhn": svhn, "folder": tree, "tiny-imagenet": tiny, "parquet": tables}


@pytest.mark.parametrize("form", ["arrow", "parquet"])
@pytest.mark.parametrize("kind", ["digits", "cifar10", "cifar100", *KINDS])
def test_a_prepared_set_is_the_set_itself(kind, form, tmp_path, monkeypatch):
    source = None if kind == "digits" else tmp_path / "source"
    if kind.startswith("cifar"):
        cifar(source, kind, monkeypatch)
    elif source:
        KINDS[kind](source)
    options = {} if source else {"kind": kind}
    record = prepared(source or "", tmp_path / "out", shard_size=7, form=form, licence="CC0", **options)
    directly = read(source, kind)
    assert same(read(tmp_path / "out", {"arrow": "prepared", "parquet": "parquet"}[form]), directly)
    splits = load_splits(DataConfig(name=kind, path=str(source) if source else None, held_out=0))
    assert np.allclose((record["mean"], record["std"]), splits.train.pixel_statistics(), atol=2e-6)
    assert record["licence"] == "CC0" and record["shape"] == splits.train.shape
    for place in (tmp_path / "out", (tmp_path / "out").as_uri()):  # what was made is a source as well
        prepared(place, tmp_path / "again", cache=str(tmp_path / "cache"))
        assert same(read(tmp_path / "again"), directly)
        shutil.rmtree(tmp_path / "again")
    assert {path.name for path in tmp_path.iterdir()} <= {"source", "out", "cache"}


def photographs(folder, count=12):
    """A tree of JPEGs of many sizes, some grey."""
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        for i in range(count):
            size = tuple(random.integers(100, 140, 2)) + ((3,) if i % 4 else ())
            image = Image.fromarray(random.integers(0, 256, size, np.uint8))
            path = folder / split / CLASSES[i % 3] / f"{i:03}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path)


def test_photographs_keep_their_bytes_and_are_decoded_when_they_are_read(tmp_path):
    photographs(tmp_path / "source")
    record = prepared(tmp_path / "source", tmp_path / "out", shard_size=5)
    assert record["storage"] == "encoded" and record["shape"] is None and record["channels"] == 3
    for size in (64, 101):
        assert same(read(tmp_path / "out", image_size=size), read(tmp_path / "source", "folder", image_size=size))
    prepared(tmp_path / "source", tmp_path / "parquet", form="parquet")
    stored = [row["bytes"] for row in pq.read_table(tmp_path / "parquet/train-00000-of-00001.parquet")["image"].to_pylist()]
    assert stored == [path.read_bytes() for path in sorted((tmp_path / "source/train").rglob("*.jpg"))]
    record = prepared(tmp_path / "source", tmp_path / "raw", image_size=64)
    assert record["storage"] == "raw" and record["shape"] == (3, 64, 64)
    assert same(read(tmp_path / "raw"), read(tmp_path / "source", "folder", image_size=64))
    for options, words in (
        ({"storage": "raw"}, "storage: raw needs images of one size"),
        ({"channels": 1}, "channels: 1 is for grey images, and of these some are in colour"),
    ):
        with pytest.raises(UserError, match=words):
            prepared(tmp_path / "source", tmp_path / "refused", **options)


def tars(folder, as_json=False):
    """Samples as WebDataset has them, two tars a split; returns what is in them."""
    folder.mkdir()
    wanted = []
    for split, seed in (("train", 0), ("val", 1)):
        images, labels = pixels_of(14, (6, 5, 3), seed), np.arange(14) % 3
        for part in range(2):
            with tarfile.open(folder / f"set-{split}-{part:04}.tar", "w") as archive:
                for i in range(part * 7, part * 7 + 7):
                    label = json.dumps({"label": int(labels[i])}) if as_json else f"{labels[i]}\n"
                    for suffix, data in ((("json" if as_json else "cls"), label.encode()), ("png", png(images[i]))):
                        info = tarfile.TarInfo(f"{split}/sample{i:04}.{suffix}")
                        info.size = len(data)
                        archive.addfile(info, io.BytesIO(data))
        wanted += [torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(labels)]
    return [*wanted, ("0", "1", "2")]


@pytest.mark.parametrize("as_json", [False, True])
def test_tars_of_webdataset(tmp_path, as_json):
    wanted = tars(tmp_path / "source", as_json)
    prepared(tmp_path / "source", tmp_path / "out", shard_size=5)
    assert same(read(tmp_path / "out"), wanted)
    prepared(tmp_path / "source", tmp_path / "named", classes=("a", "b", "c"))
    assert read(tmp_path / "named")[4] == ("a", "b", "c")


def test_tars_that_are_no_sets_are_refused(tmp_path):
    folder = tmp_path / "source"
    tars(folder)
    with pytest.raises(UserError, match=r"label 2 of sample train/sample0002 is out of range; allowed: 0 to 1"):
        check(run_of(folder, tmp_path / "out", classes=("a", "b")))
    path = folder / "set-train-0000.tar"
    whole = path.read_bytes()
    for content, words in (
        (whole[:700], "cannot be read as a tar"),
        (gzip.compress(whole), "unpack it if it is compressed"),
        (whole.replace(b".cls", b".txt"), "has no label"),
        (whole.replace(b".png", b".bin"), "has no image"),
    ):
        path.write_bytes(fixed(content) if len(content) == len(whole) else content)
        with pytest.raises(UserError, match=words):
            check(run_of(folder, tmp_path / "out"))


def fixed(content):
    """A tar whose names were changed, with the checksums of its headers made right."""
    data = bytearray(content)
    for at in range(0, len(data) - 511, 512):
        if data[at + 257 : at + 262] == b"ustar":
            data[at + 148 : at + 156] = b" " * 8
            data[at + 148 : at + 156] = f"{sum(data[at : at + 512]):06o}\0 ".encode()
    return bytes(data)


def test_sources_that_cannot_be_stored_or_told_apart_are_refused(tmp_path):
    random = np.random.default_rng(0)
    mixed = tmp_path / "mixed"
    tree(mixed)
    for i in range(40):
        save(mixed / "train/cat" / f"{i:03}.png", random.integers(0, 256, (6, 5, 3), np.uint8))
    save(mixed / "train/cat/000b.png", random.integers(0, 256, (7, 5, 3), np.uint8))
    many = tmp_path / "many"
    shutil.copytree(mixed, many)
    for i in range(300):
        save(many / "train/cat" / f"{i:03}.png", random.integers(0, 256, (6, 5, 3), np.uint8))
    tables(tmp_path / "both")
    (tmp_path / "both/wnids.txt").write_text("")
    (tmp_path / "empty").mkdir()
    deep = tmp_path / "deep"
    tree(deep)
    Image.fromarray(random.integers(0, 2**16, (6, 5), np.uint16)).save(deep / "train/cat/000.png")
    half, shut, unnamed = tmp_path / "half", tmp_path / "shut", tmp_path / "unnamed"
    shutil.copytree(deep / "train", half / "train")
    for path in (shut / "train-0.tar.gz", unnamed / "shard-0.tar"):
        path.parent.mkdir()
        path.write_bytes(b"")
    for source, options, words in (
        (tmp_path / "none", {}, "source: .* does not exist"),
        (tmp_path / "empty", {}, "holds nothing that is known here: cifar-10"),
        (tmp_path / "both", {}, "kind: .* may be tiny-imagenet or parquet; say which"),
        ("set.pkl", {}, "a pickle executes code"),
        (mixed, {"storage": "raw"}, "storage: raw needs images of one size"),
        (many, {}, r"000b.png: has channels x height x width 3 x 7 x 5, .* all must have one size"),
        ("", {"kind": "digits", "image_size": 4}, "image_size: 4 is not for this source, which holds pixels, 1 x 8 x 8"),
        ("", {"kind": "digits", "storage": "encoded"}, "storage: encoded is not for this source"),
        (deep, {"licence": "@nowhere"}, "licence: nowhere cannot be read"),
        (half, {}, "holds no test images: a folder for each class in one of test, val, valid"),
        (half / "train", {}, "holds a split; give the folder that it lies in"),
        (shut, {}, "holds compressed tars"),
        (unnamed, {}, "holds tars whose names say neither train, val nor test"),
        (deep, {"dest": "s3://bucket/out"}, "dest: s3://bucket/out is an address; give a folder of this machine"),
        (deep, {"dest": str(unnamed / "shard-0.tar" / "out")}, "cannot be made: .*shard-0.tar is a file"),
        (deep, {"dest": "/proc/out"}, "dest: /proc/out cannot be made"),
        (deep.as_uri(), {}, "holds neither a prepared set nor train.*parquet"),
    ):
        with pytest.raises(UserError, match=words):
            prepared(source, **{"dest": tmp_path / "out", **options})
    prepared(deep, tmp_path / "deep16")  # 16 bits: the upper 8, as when it is read directly
    assert same(read(tmp_path / "deep16"), read(deep, "folder"))


def test_a_source_that_does_not_answer_is_not_asked_row_by_row(tmp_path, monkeypatch):
    tree(tmp_path / "source")
    run, asked = run_of(tmp_path / "source", tmp_path / "out"), []

    def read(self, split, start, stop):
        asked.append(start)
        raise UnreachableError.one("source", "does not answer")

    monkeypatch.setattr(Tree, "read", read)
    with pytest.raises(UnreachableError, match="does not answer"):
        layout.layout_of(open_source(run), run)
    assert len(asked) == 1


def test_a_damaged_image_is_named_and_finished_files_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(layout, "LOOKED_AT", 2)
    source, out = tmp_path / "source", tmp_path / "out"
    tree(source)
    bad, worse = source / "train/owl/015.png", min((source / "test/dog").iterdir())
    whole = bad.read_bytes()
    bad.write_bytes(whole[:40] + bytes(len(whole) - 40))
    other = worse.read_bytes()
    worse.write_bytes(bytes(len(other)))
    with pytest.raises(UserError) as caught:
        prepared(source, out, shard_size=5)
    assert [Path(problem.where).name for problem in caught.value.problems] == ["015.png", worse.name, "source"]
    worse.write_bytes(other)
    aside = tmp_path / ".out.preparing"
    kept = {path: path.stat().st_mtime_ns for path in aside.glob("train-*.arrow")}
    assert len(kept) == 3 and not out.exists()
    bad.write_bytes(whole)
    prepared(source, out, shard_size=5)
    assert {path.name: time for path, time in kept.items()}.items() <= {
        path.name: path.stat().st_mtime_ns for path in out.glob("*.arrow")
    }.items()
    assert same(read(out), read(source, "folder")) and not aside.exists()


def test_images_that_are_mended_added_or_removed_cost_their_own_files_alone(tmp_path, monkeypatch):
    """Of a folder; how many images a file has is not changed by it, though it follows from their sizes."""
    monkeypatch.setattr(layout, "MOST_BYTES", 700)
    monkeypatch.setattr(layout, "LOOKED_AT", 4)
    source, out, aside = tmp_path / "source", tmp_path / "out", tmp_path / ".out.preparing"
    tree(source, per_class=12)
    bad, gone = source / "train/owl/030.png", source / "test/owl/008.png"
    content = bad.read_bytes()
    bad.write_bytes(b"no image")
    gone.write_bytes(b"no image")
    with pytest.raises(UserError, match="2 mistakes stand above; files without any are finished and stay"):
        prepared(source, out, storage="encoded")

    def numbered(folder):
        """The time of each file, by split and number: how many there are in all is in its name as well."""
        return {path.name.partition("-of-")[0]: path.stat().st_mtime_ns for path in folder.glob("*-*-of-*.arrow")}

    began = numbered(aside)
    bad.write_bytes(content)
    gone.unlink()
    save(source / "train/owl/zzz.png", pixels_of(1, (6, 5, 3))[0])
    prepared(source, out, storage="encoded")
    kept = {name for name, time in numbered(out).items() if began.get(name) == time}
    size = json.loads((out / "dataset.json").read_text())["splits"]["train"]["files"][0]["rows"]
    assert 1 < size < 12 and {f"train-{number:05d}" for number in range(30 // size)} <= kept
    assert same(read(out), read(source, "folder"))
    prepared(source, tmp_path / "anew", storage="encoded", shard_size=size)
    assert {path.name: path.read_bytes() for path in out.glob("*.arrow")} == {
        path.name: path.read_bytes() for path in (tmp_path / "anew").glob("*.arrow")
    }


def test_another_source_or_other_options_do_not_go_on(tmp_path):
    tree(tmp_path / "source")
    run = run_of(tmp_path / "source", tmp_path / "out", shard_size=5)

    def stop(progress):
        if progress.what.startswith("5 of"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(check(run), HERE, stop)
    with pytest.raises(UserError, match="the beginning of a set with shard_size 5, not 6; repeat"):
        check(dataclasses.replace(run, shard_size=6))
    shutil.copytree(tmp_path / "source", tmp_path / "another")
    with pytest.raises(UserError, match="the beginning of a set with another source"):
        check(dataclasses.replace(run, source=str(tmp_path / "another")))
    record = prepare(check(run), HERE, lambda progress: None)
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    assert prepare(check(run), HERE, lambda progress: None) == json.loads(json.dumps(record))  # it is there already
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == times
    for path in ("train-00000-of-00004.arrow", "dataset.json"):
        content = (tmp_path / "out" / path).read_bytes()
        (tmp_path / "out" / path).write_bytes(content[:-9])
        with pytest.raises(UserError, match=r"dest: .* exists and is not an empty folder"):
            check(run)
        (tmp_path / "out" / path).write_bytes(content)
    with pytest.raises(UserError, match=r"dest: .* exists and is not an empty folder"):
        check(dataclasses.replace(run, shard_size=6))


def test_a_job_that_is_killed_and_then_warned_goes_on(tmp_path):
    """From the command line; finished files stay as they are, and all come out as undisturbed ones."""
    np.savez(
        tmp_path / "set.npz",
        image=np.random.default_rng(0).integers(0, 256, (60_000, 16, 16, 3), np.uint8),
        label=np.arange(60_000) % 10,
    )
    command = [sys.executable, ROOT / "jobs/prepare_data.py", "set.npz", "out", "--shard_size", "1000", "--threads", "1"]
    seen = {}

    def kept():
        records = (tmp_path / ".out.preparing/kept").glob("train-*.json")  # a file without one is not finished
        now = {path: (path.parents[1] / path.stem).stat().st_mtime_ns for path in records}
        assert seen.items() <= now.items()
        seen.update(now)
        return now

    killed_and_warned(command, tmp_path, kept)
    whole = prepared(tmp_path / "set.npz", tmp_path / "whole", shard_size=1000)
    assert json.loads((tmp_path / "out/dataset.json").read_text()) == json.loads(json.dumps(whole))


def test_a_look_finds_what_is_damaged_and_what_is_there_twice(tmp_path, monkeypatch, capsys):
    source = tmp_path / "source"
    tree(source)
    shutil.copy(source / "train/cat/001.png", source / "train/cat/001b.png")
    shutil.copy(source / "train/cat/002.png", source / "train/owl/zzz.png")
    shutil.copy(source / "train/dog/008.png", source / "test/dog/zzz.png")
    save(source / "train/cat/large.png", pixels_of(1, (16, 15, 3))[0])
    (source / "train/cat/000.png").write_bytes(b"no image")
    monkeypatch.chdir(tmp_path)

    def look(*words):
        monkeypatch.setattr(sys, "argv", ["prepare_data.py", "inspect", *map(str, words)])
        return main("prepare_data.py", ""), "".join(capsys.readouterr())

    code, said = look(source, "--threads", 1)
    assert code == 1 and "1 of 31 images cannot be used" in said, said
    assert "000.png: holds no readable image" in said and "test row 6 is training row 10" in said, said
    found = json.loads((tmp_path / "inspection-source/inspection.json").read_text())
    train, test = found["splits"]["train"], found["splits"]["test"]
    assert (train["images"], train["damaged"], train["repeated"], train["other_label"]) == (21, 1, 2, 1)
    assert train["per_class"] == [8, 6, 7] and train["sizes"] == {"6 x 5": 19, "16 x 15": 1}
    assert (test["damaged"], test["repeated"], found["shared"]["images"]) == (0, 0, 1)
    page = (tmp_path / "inspection-source/report.html").read_text()
    assert "contact sheet" in page and "no readable image" in page
    assert Image.open(tmp_path / "inspection-source/sheet.png").size > (64, 64)
    code, said = look()
    assert code == 2 and "source: missing; write prepare_data.py inspect PATH" in said

    prepared("", tmp_path / "digits", kind="digits", shard_size=100)
    code, said = look("digits", "--out", "sound")
    assert code == 0, said
    path = tmp_path / "digits/train-00001-of-00015.arrow"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    code, said = look("digits", "--out", "look")
    assert code == 1 and "train-00001-of-00015.arrow is not what was written" in said, said
    assert json.loads((tmp_path / "look/inspection.json").read_text())["splits"]["train"]["damaged"] == 1


def test_channels_may_be_words_on_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["prepare_data.py", str(tmp_path / "set"), "--kind", "digits", "--channels", "1"])
    assert main("prepare_data.py", "") == 0, capsys.readouterr()
    for words in ("all of it is there already", "all of it: "):
        assert main("prepare_data.py", "") == 0
        assert words in capsys.readouterr().out


def test_source_and_dest_stand_in_front():
    assert with_flags(["a", "b", "--form", "arrow"]) == ["--source", "a", "--dest", "b", "--form", "arrow"]
    assert with_flags(["b", "--kind=digits"]) == ["--dest", "b", "--kind=digits"]
    assert with_flags(["b", "--kind", "digits"]) == ["--dest", "b", "--kind", "digits"]
    assert with_flags(["--dest", "b"]) == ["--dest", "b"]


@pytest.mark.ray
def test_workers_of_ray_write_the_same_bytes(tmp_path, ray_cluster):
    """A source of which workers read their part, and one that comes in one stream."""
    from afa_dist.runtime.cluster import session
    from afa_dist.runtime.prepare import scaling_of

    photographs(tmp_path / "tree")
    np.savez(tmp_path / "set.npz", image=pixels_of(50, (6, 5, 3)), label=np.arange(50) % 3)
    for number, source in enumerate(("tree", "set.npz")):
        here = prepared(tmp_path / source, tmp_path / f"here{number}", shard_size=3)
        run = run_of(tmp_path / source, tmp_path / f"there{number}", shard_size=3, workers=2, threads=1)
        with session(scaling_of(run)) as placement:
            assert placement.workers == 2
            assert prepare(check(run), placement, lambda progress: None) == here


@pytest.mark.parametrize("shape", [(3, 2, 5, 7), (70, 1, 64, 64), (1, 3, 600, 500)])
def test_histograms_count_every_pixel_once(shape):
    images = pixels_of(shape[0], shape[1:], 0)
    want = np.array([[(images[:, channel] == value).sum() for value in range(256)] for channel in range(shape[1])])
    assert np.array_equal(histogram(images), want)
