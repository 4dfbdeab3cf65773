"""A damaged checkpoint is never loaded: what a fuzzer does to the newest one is found, and the one before is used."""

import json
import random
import shutil
import struct
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file

from afa_dist.files import sha256
from afa_dist.training.checkpoint import Checkpoint, DamagedCheckpoint
from afa_dist.training.checkpoint_store import CheckpointStore

RUN = "run-of-this-test"
CASES = 72


def make(store, step, run=RUN):
    g = torch.Generator().manual_seed(step)
    model = {"conv.weight": torch.randn(8, 3, 3, 3, generator=g), "bn.running_mean": torch.randn(8, generator=g)}
    momentum = {"conv.weight": torch.randn(8, 3, 3, 3, generator=g)}
    store.save(Checkpoint(step, model, momentum, {"best": {"step": step, "metrics": {}}, "run": run}, model))


def any_file(folder, rng):
    return rng.choice(sorted(entry for entry in folder.iterdir() if entry.is_file()))


def content_file(folder, rng):
    """A file that the manifest vouches for."""
    return rng.choice(sorted(entry for entry in folder.iterdir() if entry.name != "manifest.json"))


def truncate(folder, rng):
    file = any_file(folder, rng)
    data = file.read_bytes()
    file.write_bytes(data[: rng.randrange(len(data))])


def flip(folder, rng):
    file = content_file(folder, rng)
    data = bytearray(file.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    file.write_bytes(data)


def flip_a_digit_of_the_manifest(folder, rng):
    file = folder / "manifest.json"
    text = file.read_text()
    start = text.index('"files"')
    place = rng.choice([i for i, c in enumerate(text) if c.isdigit() and i > start and text[i - 1] in "0123456789abcdef"])
    file.write_text(text[:place] + str((int(text[place]) + 1) % 10) + text[place + 1 :])


def swap_two_files(folder, rng):
    one = folder / "optimiser.safetensors"
    other = folder / rng.choice(["model.safetensors", "averaged.safetensors", "state.json"])
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)


def swap_with_the_checkpoint_before(folder, rng):
    name = content_file(folder, rng).name
    shutil.copy(folder.with_name("step-00000004") / name, folder / name)


def delete(folder, rng):
    any_file(folder, rng).unlink()


def rename_a_file(folder, rng):
    file = any_file(folder, rng)
    file.rename(file.with_name(file.name + ".old"))


def zero(folder, rng):
    file = any_file(folder, rng)
    file.write_bytes(bytes(file.stat().st_size))


def add_a_foreign_file(folder, rng):
    (folder / rng.choice(["weights.pkl", "model.pt", "averaged.safetensors.bak", ".hidden"])).write_bytes(b"\x80\x04.")


def make_it_a_folder(folder, rng):
    file = any_file(folder, rng)
    file.unlink()
    file.mkdir()


def oversize_header(folder, rng):
    """A length that would have the reader take terabytes, vouched for by a manifest made to fit."""
    file = rng.choice(sorted(folder.glob("*.safetensors")))
    file.write_bytes(struct.pack("<Q", rng.choice([2**40, 2**63, 2**64 - 1])) + file.read_bytes()[8:])
    vouch(folder)


def pickle_in_place_of_weights(folder, rng):
    """A pickle that would leave a trace if it was opened, vouched for."""
    file = rng.choice(sorted(folder.glob("*.safetensors")))
    trace = folder.parent / "trace"
    file.write_bytes(b"cos\nsystem\n(S'touch " + str(trace).encode() + b"'\ntR.")
    vouch(folder)


def not_a_number(folder, rng):
    file = rng.choice(sorted(folder.glob("*.safetensors")))
    tensors = load_file(file)
    tensors["conv.weight"].view(-1)[rng.randrange(216)] = rng.choice([torch.nan, torch.inf, -torch.inf])
    save_file(tensors, file)
    vouch(folder)


def of_another_run(folder, rng):
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps({**state, "run": "another"}))
    vouch(folder)


def of_another_step(folder, rng):
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps({**state, "step": 4}))
    vouch(folder)


def bad_json(folder, rng):
    name = rng.choice(["state.json", "manifest.json"])
    (folder / name).write_text(
        rng.choice(["", "{", "null", "[]", '"text"', "[" * 100_000, "\x00", '{"files": 3}', '{"format": 1}'])
    )
    if name == "state.json":
        vouch(folder)


def a_way_out_of_the_folder(folder, rng):
    manifest = json.loads((folder / "manifest.json").read_text())
    other = folder.with_name("step-00000004") / "state.json"
    manifest["files"]["../step-00000004/state.json"] = {"bytes": other.stat().st_size, "sha256": sha256(other)}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def half_written(folder, rng):
    """What a version without the last rename would leave: the folder under its name, some files missing."""
    for file in sorted(folder.iterdir())[rng.randrange(4) :]:
        file.unlink()


def vouch(folder):
    """Make the manifest fit what is there: damage that hashes do not show."""
    manifest = json.loads((folder / "manifest.json").read_text())
    for name in manifest["files"]:
        file = folder / name
        manifest["files"][name] = {"bytes": file.stat().st_size, "sha256": sha256(file)}
    (folder / "manifest.json").write_text(json.dumps(manifest))


DAMAGES = [
    truncate,
    flip,
    flip_a_digit_of_the_manifest,
    swap_two_files,
    swap_with_the_checkpoint_before,
    delete,
    rename_a_file,
    zero,
    add_a_foreign_file,
    make_it_a_folder,
    oversize_header,
    pickle_in_place_of_weights,
    not_a_number,
    of_another_run,
    of_another_step,
    bad_json,
    a_way_out_of_the_folder,
    half_written,
]


@pytest.fixture
def store(tmp_path):
    store = CheckpointStore(tmp_path / "checkpoints")
    for step in (4, 8):
        make(store, step)
    assert store.newest(RUN).step == 8
    return store


@pytest.mark.parametrize("case", range(CASES))
def test_the_newest_damaged_one_is_named_and_the_one_before_is_used(case, store):
    damage = DAMAGES[case % len(DAMAGES)]
    wanted = store.load(4, RUN)
    damage(store.path(8), random.Random(case))
    with pytest.warns(UserWarning, match="damaged checkpoint passed over: .*step-00000008"):
        found = store.newest(RUN)
    assert found.step == 4
    for part in ("model", "optimiser", "averaged"):
        assert all(torch.equal(value, getattr(wanted, part)[name]) for name, value in getattr(found, part).items())
    assert not (store.folder / "trace").exists()


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_none_whole_is_an_error(damage, store):
    shutil.rmtree(store.path(4))
    if damage in (swap_with_the_checkpoint_before, a_way_out_of_the_folder):
        make(store, 4)
        (store.path(4) / "manifest.json").unlink()
    damage(store.path(8), random.Random(1))
    with pytest.raises(DamagedCheckpoint, match="none of the"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        store.newest(RUN)


def test_a_renamed_checkpoint_is_not_taken_for_a_later_one(store):
    store.path(8).rename(store.path(99))
    with pytest.warns(UserWarning, match="holds step 8"):
        assert store.newest(RUN).step == 4
