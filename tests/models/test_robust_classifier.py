"""An exported classifier by one call: the same logits, from a folder or a hub; damage told in words, nothing executed."""

import builtins
import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import afa_dist
from afa_dist import RobustClassifier
from afa_dist.config import FinetuneRun, ModelConfig
from afa_dist.errors import UserError
from afa_dist.files import sha256
from afa_dist.models.export import save_classifier
from afa_dist.training.job import data_shape
from tests.model_hub import serving

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(trained, digits, tmp_path):
    """An export, as a fine-tuning run leaves it."""
    run = FinetuneRun(mode="full", model=ModelConfig(width=8, norm="group"))
    save_classifier(tmp_path / "run" / "model", trained.state_dict(), run, data_shape(digits))
    return tmp_path / "run" / "model"


@pytest.fixture
def x(digits):
    return digits.test.images_NCHW[:32].float() / 255


def test_a_saved_model_gives_the_same_bits_however_often_it_is_saved(folder, trained, x, tmp_path):
    model = RobustClassifier.from_pretrained(folder)
    model.save_pretrained(tmp_path / "again")
    again = RobustClassifier.from_pretrained(str(tmp_path / "again"))
    for net in (model, again):
        assert isinstance(net, torch.nn.Module) and not net.training and not net.net.training
        assert torch.equal(net(x), trained(x))
        assert net.classes == tuple("0123456789") and net.config["threat"] == {"norm": "linf", "eps": 8 / 255}
    # Evaluations know weights by the hash of the file.
    assert sha256(tmp_path / "again/model.safetensors") == sha256(folder / "model.safetensors")
    assert sorted(path.name for path in (tmp_path / "again").iterdir()) == ["config.json", "model.safetensors"]


def test_a_run_directory_may_be_given_and_the_package_has_the_class(folder, trained, x):
    assert torch.equal(afa_dist.RobustClassifier.from_pretrained(folder.parent)(x), trained(x))
    with pytest.raises(AttributeError, match="RobustKlassifier"):
        _ = afa_dist.RobustKlassifier


def test_importing_the_package_loads_no_torch_and_the_class_no_hub():
    code = "import sys, afa_dist; assert 'torch' not in sys.modules; afa_dist.RobustClassifier; "
    code += "assert not {'huggingface_hub', 'ray', 'yaml'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_logits_have_gradients_and_the_state_stays(folder, x):
    model = RobustClassifier.from_pretrained(folder)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x.requires_grad_()
    model(x).sum().backward()
    assert x.grad.abs().sum() > 0
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def change_header(path):
    path.write_bytes(b"\xff" * 8 + path.read_bytes()[8:])


def empty(path):
    path.write_bytes(b"")


def pickled(path):
    path.write_bytes(pickle.dumps({"weights": Bomb()}))


class Bomb:
    """Unpickled, it leaves a file."""

    def __reduce__(self):
        return (builtins.open, ("bomb", "w"))


@pytest.mark.parametrize("damage", [truncate, change_header, empty, pickled, Path.unlink])
def test_damaged_weights_are_refused_in_words(folder, damage, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    damage(folder / "model.safetensors")
    with pytest.raises(UserError, match="does not hold a whole model"):
        RobustClassifier.from_pretrained(folder)
    assert not (tmp_path / "bomb").exists()


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": 2}', '{"format": 1}', '{"format": 1, "shape": 3, "model": []}']
)
def test_a_damaged_configuration_is_refused_in_words(folder, text):
    (folder / "config.json").write_text(text)
    with pytest.raises(UserError, match="model"):
        RobustClassifier.from_pretrained(folder)


def test_nothing_in_the_folder_is_executed(folder, monkeypatch, x, trained, tmp_path):
    """Code beside the weights, such as other libraries run from a repository, is not even read."""
    monkeypatch.chdir(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModel": "modeling.Model"}
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("modeling.py", "__init__.py", "sitecustomize.py", "conftest.py"):
        (folder / name).write_text("open('bomb', 'w')\n")
    pickled(folder / "pytorch_model.bin")
    assert torch.equal(RobustClassifier.from_pretrained(folder)(x), trained(x))
    assert not (tmp_path / "bomb").exists()


def test_places_that_are_none_are_told_in_words(folder, tmp_path):
    for place in (tmp_path / "nowhere", "/nowhere/at/all", "s3://bucket/model", "a/b/c"):
        with pytest.raises(UserError, match="neither a folder nor the name of a repository"):
            RobustClassifier.from_pretrained(place)
    with pytest.raises(UserError, match="is a folder; only repositories"):
        RobustClassifier.from_pretrained(folder, revision="main")


# The hub's client is the real one and talks to a server of this machine: what can go wrong between us and it (names of
# arguments, patterns of files, kinds of exceptions) changes with its versions, and a client made up here would not.


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with serving(monkeypatch, tmp_path / "cache") as hub:
        yield hub


def test_a_model_goes_to_the_hub_and_comes_back(folder, hub, x, trained):
    model = RobustClassifier.from_pretrained(folder)
    assert model.push_to_hub("me/robust", token="hf_mine", private=True) == f"{hub.url}/me/robust"
    assert set(hub.files["me/robust"]) == {"model.safetensors", "config.json"}
    # The client also asks for things of its own, without a token.
    ours = [token for token, path in zip(hub.tokens, hub.asked_for, strict=True) if "/models/" in path or "/repos/" in path]
    assert hub.private["me/robust"] and set(ours) == {"Bearer hf_mine"}
    for revision in (None, "main", hub.sha("me/robust")):
        assert torch.equal(RobustClassifier.from_pretrained("me/robust", revision=revision)(x), trained(x))


def test_only_the_two_files_are_fetched(folder, hub):
    RobustClassifier.from_pretrained(folder).push_to_hub("me/robust")
    hub.files["me/robust"] |= {"modeling.py": b"raise SystemExit", "pytorch_model.bin": b"x"}
    hub.asked_for.clear()
    RobustClassifier.from_pretrained("me/robust")
    fetched = {path.rpartition("/")[2] for path in hub.asked_for if "/resolve/" in path}
    assert fetched == {"model.safetensors", "config.json"}


def test_a_private_model_is_not_put_where_all_can_see_it(folder, hub):
    """The hub leaves a repository that is there as public as it was, whatever is asked for."""
    model = RobustClassifier.from_pretrained(folder)
    model.push_to_hub("me/robust")
    hub.files["me/robust"].clear()
    with pytest.raises(UserError, match="private: me/robust is on the hub already, and public"):
        model.push_to_hub("me/robust", private=True)
    assert hub.files["me/robust"] == {}


def test_what_the_hub_lacks_is_told_in_words(folder, hub):
    with pytest.raises(UserError, match="the hub gives no me/none"):
        RobustClassifier.from_pretrained("me/none")
    RobustClassifier.from_pretrained(folder).push_to_hub("me/robust")
    with pytest.raises(UserError, match="the hub gives no me/robust at revision v2"):
        RobustClassifier.from_pretrained("me/robust", revision="v2")
    hub.files["me/robust"]["model.safetensors"] = b"damaged"
    with pytest.raises(UserError, match="does not hold a whole model"):
        RobustClassifier.from_pretrained("me/robust")


def test_without_the_client_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"pip install 'afa-dist\[hub\]'"):
        RobustClassifier.from_pretrained("me/robust")
