"""Any folder of diffusers can be drawn from; none of them runs code, and none is unpickled."""

import json

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    UNet2DModel,
)

from afa_dist.diffusion.source import open_source
from afa_dist.errors import UserError
from afa_dist.runtime.sampling_checks import check
from tests.diffusion.test_sampling import drawn, run_of, table_of


@pytest.fixture(scope="module")
def without_classes(tmp_path_factory):
    """A DDPM that knows no classes."""
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    )
    folder = tmp_path_factory.mktemp("ddpm")
    DDPMPipeline(unet, DDPMScheduler(num_train_timesteps=20)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def latent(tmp_path_factory):
    """A diffusion transformer that draws classes in the space of an autoencoder."""
    torch.manual_seed(0)
    transformer = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=1,
        sample_size=4,
        patch_size=2,
        num_embeds_ada_norm=1000,
        norm_num_groups=4,
    )
    vae = AutoencoderKL(block_out_channels=(8, 16), norm_num_groups=4, down_block_types=("DownEncoderBlock2D",) * 2,
                        up_block_types=("UpDecoderBlock2D",) * 2, layers_per_block=1, sample_size=8)  # fmt: skip
    folder = tmp_path_factory.mktemp("dit")
    DiTPipeline(transformer, vae, DDIMScheduler()).save_pretrained(folder)
    return folder


def test_images_without_a_class_get_that_of_a_scorer(without_classes, trained_run, tmp_path):
    classes = tuple("0123456789")
    run = run_of(without_classes, tmp_path, classes=classes, count=12, data=None, scorer=str(trained_run.path))
    with pytest.raises(UserError, match="labels scorer"):
        check(run)
    run = run_of(
        without_classes, tmp_path, classes=classes, count=12, data=None, scorer=str(trained_run.path), labels="scorer"
    )
    assert drawn(run)["images"] == 12
    table = table_of(tmp_path)
    assert table["label"].to_pylist() == table["predicted"].to_pylist()
    again = run_of(
        without_classes, tmp_path / "b", classes=classes, count=12, data=None, scorer=str(trained_run.path), labels="scorer"
    )
    drawn(again)
    assert table_of(tmp_path / "b").equals(table)


def test_a_transformer_of_classes_is_drawn_from_with_guidance(latent, tmp_path):
    with pytest.raises(UserError, match="does not say which it knows"):
        check(run_of(latent, tmp_path, data=None))
    run = run_of(latent, tmp_path, classes=("a", "b", "c"), count=7, data=None, guidance=2.0)
    assert drawn(run)["per_class"] == [3, 2, 2]
    assert len({row["bytes"] for row in table_of(tmp_path)["image"].to_pylist()}) == 7


def test_options_that_a_pipeline_does_not_know_are_refused(without_classes, tmp_path):
    with pytest.raises(UserError, match="has no guidance"):
        check(run_of(without_classes, tmp_path, guidance=2.0, classes=("a",), data=None))


def test_code_pickles_and_half_a_folder_are_refused(diffusion_model, without_classes, tmp_path):
    index = json.loads((without_classes / "model_index.json").read_text())
    cases = {
        "code": {**index, "_class_name": ["pipeline", "Mine"]},
        "unknown": {**index, "_class_name": "NoSuchPipeline"},
        "missing": {**index, "unet": ["diffusers", "UNet2DModel"], "vae": ["diffusers", "AutoencoderKL"]},
    }
    for name, wrong in cases.items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / "model_index.json").write_text(json.dumps(wrong))
        (folder / "pipeline.py").write_text("raise SystemExit('executed')")
        with pytest.raises(UserError, match="cannot be loaded"):
            open_source(str(folder))
    folder = tmp_path / "pickled"
    DDPMPipeline.from_pretrained(without_classes).save_pretrained(folder, safe_serialization=False)
    assert list(folder.rglob("*.bin"))
    with pytest.raises(UserError, match="safetensors"):
        open_source(str(folder))
    with pytest.raises(UserError, match="neither a run"):
        open_source(str(tmp_path))
