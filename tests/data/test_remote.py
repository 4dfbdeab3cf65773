"""Sets at addresses: read as those on a disk, whatever the server does, and never half of a file."""

import copy
import dataclasses
import json
import shutil
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
import torch

from afa_dist.config import DataConfig
from afa_dist.config.preparing import LookRun
from afa_dist.data import cache_room, remote
from afa_dist.data.catalogue import load_splits
from afa_dist.data.census import Census
from afa_dist.data.prepared import load_prepared
from afa_dist.data.set_place import place_of
from afa_dist.data.sources.find import open_source
from afa_dist.errors import UnreachableError, UserError
from afa_dist.files import sha256
from tests.faulty_proxy import FaultyProxy
from tests.object_store import KEYS, GoogleStore, ObjectStore

from .preparing import prepared
from .test_prepare import tables
from .test_prepared import write_set

ROOT = Path(__file__).parents[2]

FILES = 9 + 3 + 2
"""Of the set: those of 60 training and 20 test images, 7 in each, and two with labels."""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        for name, value in KEYS.items():
            patch.setenv(name, value)
        store = ObjectStore(tmp_path_factory.mktemp("store"))
        yield store
        store.stop()


@pytest.fixture(scope="module")
def google(folder, tmp_path_factory):
    """With the same set."""
    store = GoogleStore(tmp_path_factory.mktemp("google"))
    put(store, folder, "set")
    yield store
    store.stop()


@pytest.fixture(scope="module")
def folder(store, tmp_path_factory):
    """A set on the disk that lies in the bucket as well, as `set`."""
    folder = tmp_path_factory.mktemp("here") / "set"
    write_set(folder, {"train": 60, "test": 20})
    put(store, folder, "set")
    return folder


@pytest.fixture
def proxy(store):
    proxy = FaultyProxy(store)
    yield proxy
    proxy.close()


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """Nobody waits for long here."""
    monkeypatch.setattr(remote, "FIRST_PATIENCE", 1.0)
    monkeypatch.setattr(remote, "PATIENCE", 60.0)
    monkeypatch.setattr(remote, "LONGEST_PAUSE", 0.5)


def put(store, folder, name, changed=()):
    """Copy a folder into the bucket."""
    for path in folder.iterdir():
        with store.filesystem().open_output_stream(f"bucket/{name}/{path.name}") as stream:
            stream.write(dict(changed).get(path.name, path.read_bytes()))


def config_of(place, tmp_path, **options):
    return DataConfig(**{"name": "prepared", "path": str(place), "cache": str(tmp_path / "cache"), **options})


def copies(tmp_path):
    """All copies of files, by name."""
    return {path.name: path for path in (tmp_path / "cache").glob("*/*.arrow")}


def assert_whole(tmp_path, folder):
    """What is in the cache is what was written, and nothing is half there."""
    for name, path in copies(tmp_path).items():
        assert sha256(path) == sha256(folder / name), name
    assert not list((tmp_path / "cache").glob("*/.*.tmp"))


@pytest.mark.parametrize("kind", ["store", "google"])
def test_a_set_at_an_address_is_the_set(kind, folder, tmp_path, request):
    store = request.getfixturevalue(kind)
    here = load_splits(DataConfig(name="prepared", path=str(folder), held_out=10))
    there = load_splits(config_of(store.address("set"), tmp_path, held_out=10))
    assert there.fingerprint() == here.fingerprint()
    assert sorted(copies(tmp_path)) == ["test-labels.arrow", "train-labels.arrow"]  # images come when they are asked for
    for name, part in there.parts().items():
        assert torch.equal(part.in_memory()[0], here.parts()[name].in_memory()[0])
    assert len(copies(tmp_path)) == FILES
    assert_whole(tmp_path, folder)
    whole = next(path for path in (tmp_path / "cache").iterdir() if path.is_dir())
    shutil.copy(folder / "dataset.json", whole)
    assert load_splits(DataConfig(name="prepared", path=str(whole), held_out=10)).fingerprint() == here.fingerprint()


def test_a_server_that_fails_is_asked_again(proxy, folder, tmp_path, capfd):
    proxy.faults = ["503"] * 40 + ["drop", "hang up", "drop", "", "503", "hang up"] * 2 + ["flip", "drop"]
    found = load_prepared(config_of(proxy.address("set"), tmp_path), "train")
    here = load_prepared(DataConfig(name="prepared", path=str(folder)), "train")
    assert torch.equal(found.in_memory()[0], here.in_memory()[0])
    assert not proxy.faults
    assert_whole(tmp_path, folder)
    assert "does not answer" in capfd.readouterr().err


def test_googles_servers_too(google, folder, tmp_path):
    proxy = FaultyProxy(google)
    proxy.faults = ["", "503", "drop", "", "flip"]
    # In a process of its own: pyarrow waits for Google's servers while it holds the lock that a proxy in here needs.
    there = reader(proxy.address("set"), tmp_path).communicate(timeout=120)[0]
    assert there == reader(folder, tmp_path).communicate(timeout=60)[0] != ""
    assert not proxy.faults
    assert_whole(tmp_path, folder)
    proxy.close()


def test_what_is_another_file_is_refused_by_name(store, folder, tmp_path):
    name = "train-00003.arrow"
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    put(store, folder, "changed", {name: bytes(content)})
    put(store, folder, "short", {name: bytes(content[:-8])})
    found = load_prepared(config_of(store.address("changed"), tmp_path), "train")
    with pytest.raises(UserError, match=f"s3://bucket/changed/{name} is not what its record says"):
        found.in_memory()
    assert name not in copies(tmp_path)
    assert_whole(tmp_path, folder)
    with pytest.raises(UserError, match=f"s3://bucket/short/{name} has .* bytes, not"):
        load_prepared(config_of(store.address("short"), tmp_path), "train")
    store.filesystem().delete_file(f"bucket/short/{name}")
    with pytest.raises(UserError, match=f"s3://bucket/short lacks {name} of its {FILES} files"):
        load_prepared(config_of(store.address("short"), tmp_path), "train")


@pytest.mark.parametrize("damage", ["a pixel", "the end", "gone"])
def test_a_damaged_copy_is_had_again(store, folder, tmp_path, damage):
    config = config_of(store.address("set"), tmp_path)
    load_prepared(config, "train").in_memory()
    path = copies(tmp_path)["train-00002.arrow"]
    content = bytearray(path.read_bytes())
    if damage == "a pixel":
        content[content.index(load_prepared(config, "train").images_NCHW[14:15].numpy().tobytes())] ^= 1
        path.write_bytes(content)
    elif damage == "the end":
        path.write_bytes(content[:-10])
    else:
        path.unlink()
    here = load_prepared(DataConfig(name="prepared", path=str(folder)), "train")
    assert torch.equal(load_prepared(config, "train").in_memory()[0], here.in_memory()[0])
    assert_whole(tmp_path, folder)


def test_copies_that_vanish_are_had_again_and_those_held_elsewhere_stay(store, folder, tmp_path):
    found = load_prepared(config_of(store.address("set"), tmp_path), "train")
    want = load_prepared(DataConfig(name="prepared", path=str(folder)), "train").in_memory()[0]
    assert torch.equal(found.in_memory()[0], want)
    again = copy.deepcopy(found)
    shutil.rmtree(tmp_path / "cache")
    assert torch.equal(again.in_memory()[0], want)  # whoever has it open does not even notice
    assert_whole(tmp_path, folder)
    assert len(copies(tmp_path)) == FILES - 5  # one with labels, and those of the test images, are not asked for
    place = next((tmp_path / "cache").glob("set-*"))
    assert cache_room._is_used(place)


def test_processes_repair_a_damaged_file_together(store, folder, tmp_path):
    load_prepared(config_of(store.address("set"), tmp_path), "train").in_memory()
    for name in ("train-labels.arrow", "train-00004.arrow"):
        path = copies(tmp_path)[name]
        content = bytearray(path.read_bytes())
        content[-300] ^= 1
        path.write_bytes(content)
    readers = [reader(store.address("set"), tmp_path) for _ in range(3)]
    assert len({each.communicate(timeout=120)[0] for each in readers}) == 1
    assert [each.returncode for each in readers] == [0] * 3
    assert_whole(tmp_path, folder)


def test_a_process_that_comes_back_waits_for_a_server_that_answered_the_one_before(store, folder, tmp_path, monkeypatch):
    config = config_of(store.address("set"), tmp_path)
    load_prepared(config, "train").in_memory()
    for cache in ("cache", "another"):
        monkeypatch.setattr(remote, "_ANSWERED", set())  # as a new process has it
        place_of(config.path, dataclasses.replace(config, cache=str(tmp_path / cache)))
        assert bool(remote._ANSWERED) == (cache == "cache")


def test_a_look_ends_when_the_place_does_not_answer(proxy, store, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "PATIENCE", 1.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path))
        source = open_source(LookRun(source=proxy.address("set")))
        proxy.faults = ["hang up"] * 400
        with pytest.raises(UnreachableError, match="does not answer"):
            Census(source).take(lambda count: None)


READ = """
import sys, hashlib
from afa_dist.config import DataConfig
from afa_dist.data.prepared import load_prepared
found = load_prepared(DataConfig(name="prepared", path=sys.argv[1], cache=sys.argv[2]), "train")
print(hashlib.sha256(found.in_memory()[0].numpy().tobytes()).hexdigest(), flush=True)
if len(sys.argv) > 3:
    sys.stdin.readline()
"""


def reader(address, tmp_path, *more):
    command = [sys.executable, "-c", READ, str(address), str(tmp_path / "cache"), *more]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT
    )


def test_processes_of_a_machine_fetch_together_and_a_kill_leaves_nothing_half_done(store, proxy, folder, tmp_path):
    proxy.faults = ["", "", "503", *["hang up"] * 30]
    first = reader(proxy.address("set"), tmp_path)
    deadline = time.monotonic() + 60
    while len(proxy.served) < 6:
        assert time.monotonic() < deadline and first.poll() is None
        time.sleep(0.01)
    first.send_signal(signal.SIGKILL)
    first.wait()
    for name, path in copies(tmp_path).items():
        assert sha256(path) == sha256(folder / name)
    after = FaultyProxy(store)  # the other one may still be at requests of the process that was killed
    readers = [reader(after.address("set"), tmp_path) for _ in range(4)]
    outs = [each.communicate(timeout=120)[0] for each in readers]
    assert len(set(outs)) == 1 and len(outs[0]) == 65
    fetched = [name for name in after.served if name.startswith("train")]
    assert len(fetched) == len(set(fetched)), "a file was fetched twice"
    assert_whole(tmp_path, folder)
    after.close()


def test_sets_make_room_unless_they_are_read(store, folder, tmp_path):
    size = sum(path.stat().st_size for path in folder.glob("train*.arrow"))
    bound = {"cache_gib": 1.5 * size / 2**30}
    for name in ("first", "second", "third"):
        other = tmp_path / name
        shutil.copytree(folder, other)
        record = json.loads((other / "dataset.json").read_text())
        (other / "dataset.json").write_text(json.dumps({**record, "licence": name}))
        put(store, other, name)

    def there():
        return sorted(path.name.rpartition("-")[0] for path in (tmp_path / "cache").iterdir() if path.is_dir())

    assert reader(store.address("first"), tmp_path).communicate(timeout=60)[0]
    assert there() == ["first"]
    load_prepared(config_of(store.address("second"), tmp_path, **bound), "train").in_memory()
    assert there() == ["second"]
    with pytest.raises(UserError, match=r"data.cache_gib: .* is too little: s3://bucket/third needs"):
        load_prepared(config_of(store.address("third"), tmp_path, cache_gib=size / 2**31), "train").in_memory()
    assert "second" in there()  # nothing goes for a set that does not fit all the same
    held = reader(store.address("second"), tmp_path, "stay")
    held.stdout.readline()
    with pytest.raises(UserError, match=r"is too little: s3://bucket/third needs .* besides .* of sets that are in use"):
        load_prepared(config_of(store.address("third"), tmp_path, **bound), "train").in_memory()
    held.communicate("\n", timeout=60)


def test_parquet_and_prepared_sets_at_addresses_are_prepared(store, folder, tmp_path):
    tables(tmp_path / "hf")
    for path in (tmp_path / "hf").rglob("*.parquet"):
        with store.filesystem().open_output_stream(f"bucket/{path.relative_to(tmp_path)}") as stream:
            stream.write(path.read_bytes())
    proxy = FaultyProxy(store, ending=".parquet")
    proxy.faults = [*["503"] * 30, "drop", "hang up", "", "drop"]
    want = prepared(tmp_path / "hf", tmp_path / "here")
    assert prepared(proxy.address("hf"), tmp_path / "there") == want
    assert not proxy.faults
    proxy.close()
    again = prepared(store.address("set"), tmp_path / "again", cache=str(tmp_path / "cache"))
    recorded = json.loads((folder / "dataset.json").read_text())["splits"]
    assert {split: list(part["per_class"]) for split, part in again["splits"].items()} == {
        split: part["per_class"] for split, part in recorded.items()
    }
    with pytest.raises(UserError, match=r"^cache_gib: .* is too little: s3://bucket/set needs"):
        prepared(store.address("set"), tmp_path / "nothing", cache=str(tmp_path / "small"), cache_gib=1e-6)
    with pytest.raises(UserError, match="source: s3://bucket/none holds neither a prepared set nor train"):
        prepared(store.address("none"), tmp_path / "nothing")
    with pytest.raises(UserError, match="is an address, where parquet and prepared can be read; folder needs a folder"):
        prepared(store.address("none"), tmp_path / "nothing", kind="folder")
    with pytest.raises(UserError, match="holds a secret"):
        prepared("s3://key:word@bucket/set", tmp_path / "nothing")


def test_mistakes_are_named_before_anything_starts(store, folder, tmp_path, monkeypatch):
    def mistake(place, **options):
        with pytest.raises(UserError) as caught:
            load_prepared(config_of(place, tmp_path, **options), "train")
        return str(caught.value)

    assert "s3://bucket/none holds no dataset.json" in mistake(store.address("none"))
    assert mistake("s3://bucket/set?endpoint_override=127.0.0.1:1&scheme=http&region=us-east-1").startswith(
        "data.path: s3://bucket/set/dataset.json does not answer"
    )
    assert "foo://bucket/set is no address that can be read here" in mistake("foo://bucket/set")
    with pytest.raises(UserError, match="holds a secret") as caught:
        DataConfig(name="prepared", path="s3://key:word@bucket/set", generated="s3://key:word@bucket/set")
    assert len(caught.value.problems) == 2 and "word" not in str(caught.value)
    with pytest.raises(UserError, match=r"cache: is an address"):
        DataConfig(name="prepared", path="here", cache="s3://bucket/cache")
    with pytest.raises(UserError, match="is not allowed with folder"):
        DataConfig(name="folder", path="s3://bucket/set")
    monkeypatch.setattr(cache_room.shutil, "disk_usage", lambda place: types.SimpleNamespace(free=0))
    with pytest.raises(UserError, match=r"data.cache: the disk of .* has 0.0 MiB for it"):
        load_prepared(config_of(store.address("set"), tmp_path), "train").in_memory()
    (tmp_path / "file").write_text("")
    assert "data.cache: " in mistake(store.address("set"), cache=str(tmp_path / "file" / "cache"))
