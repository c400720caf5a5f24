"""TRELLIS' first stage as it is published: names, shapes, layout, and pictures as conditions."""

from __future__ import annotations

import itertools
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

from diffalign.backbones import VolumeBackbone, VolumePipeline, load_backbone, load_network, load_skeleton
from diffalign.backbones.volume_autoencoder import SparseStructureAutoencoder
from diffalign.backbones.volume_network import SparseStructureFlowModel
from diffalign.backbones.volume_pipeline import picture_pixels
from diffalign.backbones.weightless import load_weightless
from diffalign.exceptions import ConfigError
from diffalign.pipelines import ImageGenerator
from tests.backbones.models import LORA, PROMPTS, answer, load, path_of

IMAGE_LARGE = {  # microsoft/TRELLIS-image-large, ckpts/ss_flow_img_dit_L_16l8_fp16.json
    "resolution": 16,
    "in_channels": 8,
    "out_channels": 8,
    "model_channels": 1024,
    "cond_channels": 1024,
    "num_blocks": 24,
    "num_heads": 16,
    "mlp_ratio": 4,
    "patch_size": 1,
    "pe_mode": "ape",
    "qk_rms_norm": True,
    "use_fp16": True,
}
DECODER = {  # ckpts/ss_dec_conv3d_16l8_fp16.json
    "out_channels": 1,
    "latent_channels": 8,
    "num_res_blocks": 2,
    "num_res_blocks_middle": 2,
    "channels": [512, 128, 32],
    "use_fp16": True,
}
ENCODER = {**{k: v for k, v in DECODER.items() if k != "out_channels"}, "in_channels": 1, "channels": [32, 128, 512]}


@pytest.fixture(scope="module")
def image_large() -> SparseStructureFlowModel:
    with torch.device("meta"):
        return SparseStructureFlowModel(**IMAGE_LARGE)


def weight_and_bias(*layers: str) -> set[str]:
    return {f"{layer}.{part}" for layer in layers for part in ("weight", "bias")}


# ---------------------------------------------------------------- the published layout


def test_tensors_are_named_as_published(image_large):
    """By the published code's module definition (microsoft/TRELLIS 6b0d647)."""
    expected = {"pos_emb"} | weight_and_bias("t_embedder.mlp.0", "t_embedder.mlp.2", "input_layer", "out_layer")
    for block in range(24):
        home = f"blocks.{block}"
        layers = ["norm2", "self_attn.to_qkv", "self_attn.to_out", "cross_attn.to_q", "cross_attn.to_kv"]
        layers += ["cross_attn.to_out", "mlp.mlp.0", "mlp.mlp.2", "adaLN_modulation.1"]
        expected |= weight_and_bias(*(f"{home}.{layer}" for layer in layers))
        expected |= {f"{home}.self_attn.{part}_rms_norm.gamma" for part in "qk"}
    state = image_large.state_dict()
    assert state.keys() == expected
    assert state["pos_emb"].shape == (4096, 1024)
    assert state["blocks.0.self_attn.q_rms_norm.gamma"].shape == (16, 64)
    assert state["blocks.3.cross_attn.to_kv.weight"].shape == (2048, 1024)
    assert state["blocks.3.adaLN_modulation.1.weight"].shape == (6144, 1024)
    width = 1024
    attention = 8 * width**2 + 8 * width + 2 * width  # to_qkv, to_q, to_kv, twice to_out; gains
    block = attention + (8 + 6) * width**2 + (4 + 1 + 6 + 2) * width  # perceptron, modulation, norm2
    ends = (256 + 1) * width + (width + 1) * width + (8 + 1) * width + (width + 1) * 8
    assert sum(each.numel() for each in image_large.parameters()) == 24 * block + ends


def test_shared_modulation_is_named_as_published():
    with torch.device("meta"):
        shared = SparseStructureFlowModel(
            **IMAGE_LARGE | {"num_blocks": 1, "share_mod": True, "qk_rms_norm_cross": True}
        )
    names = set(shared.state_dict())
    assert {each for each in names if "adaLN" in each} == weight_and_bias("adaLN_modulation.1")
    assert {f"blocks.0.cross_attn.{part}_rms_norm.gamma" for part in "qk"} <= names


def test_autoencoder_tensors_are_named_as_published():
    with torch.device("meta"):
        vae = SparseStructureAutoencoder(DECODER, ENCODER)

    def blocks(widths: list[int]) -> set[str]:
        layers = [f"middle_block.{number}.{part}" for number in (0, 1) for part in ("norm1", "norm2", "conv1", "conv2")]
        place = itertools.count()
        for level in range(len(widths)):
            for _ in range(2):
                number = next(place)
                layers += [f"blocks.{number}.{part}" for part in ("norm1", "norm2", "conv1", "conv2")]
            if level < 2:
                layers.append(f"blocks.{next(place)}.conv")
        return weight_and_bias("input_layer", "out_layer.0", "out_layer.2", *layers)

    decoder, encoder = (part.state_dict() for part in (vae.decoder, vae.encoder))
    assert decoder.keys() == encoder.keys() == blocks([512, 128, 32])
    assert decoder["blocks.2.conv.weight"].shape == (128 * 8, 512, 3, 3, 3)
    assert encoder["blocks.2.conv.weight"].shape == (128, 32, 2, 2, 2)
    assert vae.factor == 4


def test_lora_is_on_the_attention_of_every_block(image_large):
    ends = tuple(f".{target}" for target in VolumeBackbone.lora_targets)
    linear = [name for name, module in image_large.named_modules() if isinstance(module, nn.Linear)]
    chosen = [name for name in linear if name.endswith(ends)]
    assert len(chosen) == 24 * 5
    assert {re.sub(r"blocks\.\d+\.", "", name) for name in chosen} == {
        "self_attn.to_qkv", "self_attn.to_out", "cross_attn.to_q", "cross_attn.to_kv", "cross_attn.to_out",
    }  # fmt: skip
    names = {name.split(".lora_")[0] for name in load("volume").state()}
    assert names == {
        f"blocks.{block}.{name}" for block in (0, 1) for name in {each.split(".", 2)[2] for each in chosen}
    }


def published(folder, *, image: bool = False, encoder: bool = True):
    """A tiny model in TRELLIS' layout, and the pipeline that it was written from."""
    pipeline = VolumePipeline.from_pretrained(path_of("volume"))
    (folder / "ckpts").mkdir(parents=True)

    def write(name: str, kind: str, settings: dict, tensors: dict[str, Tensor]) -> None:
        (folder / f"ckpts/{name}.json").write_text(json.dumps({"name": kind, "args": settings}))
        save_file({key: value.contiguous() for key, value in tensors.items()}, folder / f"ckpts/{name}.safetensors")

    network = pipeline.transformer
    settings = {key: value for key, value in network.config.items() if not key.startswith("_")}
    write("ss_flow", "SparseStructureFlowModel", settings | {"use_fp16": True}, network.state_dict())
    for part, kind in (("dec", "Decoder"), ("enc", "Encoder")):
        if part == "dec" or encoder:
            module = getattr(pipeline.vae, kind.lower())
            told = pipeline.vae.config[f"{kind.lower()}_settings"] | {"use_fp16": True}
            write(f"ss_{part}_tiny", f"SparseStructure{kind}", told, module.state_dict())
    if image:
        config = Dinov2WithRegistersConfig(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            Dinov2WithRegistersModel(config).save_pretrained(folder / "shown")
        condition = {"image_cond_model": str(folder / "shown")}
    else:
        pipeline.text_encoder.save_pretrained(folder / "told")
        pipeline.tokenizer.save_pretrained(folder / "told")
        condition = {"text_cond_model": str(folder / "told")}
    sampler = {"name": "FlowEulerGuidanceIntervalSampler", "args": {}, "params": {"steps": 25, "rescale_t": 3.0}}
    models = {
        "sparse_structure_flow_model": "ckpts/ss_flow",
        "sparse_structure_decoder": "ckpts/ss_dec_tiny",
        "slat_flow_model": "ckpts/of_the_second_stage",
    }
    told = {"models": models, "sparse_structure_sampler": sampler, **condition}
    (folder / "pipeline.json").write_text(json.dumps({"name": "TrellisPipeline", "args": told}))
    return pipeline


def test_the_published_layout_is_the_same_model(tmp_path):
    published(tmp_path / "trellis")
    read = load_backbone("volume", str(tmp_path / "trellis"), lora=LORA)
    assert torch.equal(answer(read, "reference"), answer(load("volume"), "reference"))
    assert read.time_shift() == 3.0
    media = (torch.rand(2, 1, 8, 8, 8) > 0.5).float()
    assert torch.equal(read.encode(media), load("volume").encode(media))
    texts = read.text(PROMPTS)["states"]
    read.free_encoders("text", "vae")  # and they are read again
    assert torch.equal(read.text(PROMPTS)["states"], texts)
    for network in (
        load_network("volume", str(tmp_path / "trellis")),
        load_skeleton("volume", str(tmp_path / "trellis")),
    ):
        assert network.state_dict().keys() == load("volume", None).network.state_dict().keys()


def test_a_decoder_alone_cannot_encode(tmp_path):
    published(tmp_path / "trellis", encoder=False)
    read = load_backbone("volume", str(tmp_path / "trellis"))
    assert read.decode(torch.zeros(1, *read.sample_shape())).shape == (1, 1, 8, 8, 8)
    with pytest.raises(ConfigError, match="has a decoder and no encoder"):
        read.encode(torch.zeros(1, 1, 8, 8, 8))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda home: (home / "ckpts/ss_flow.safetensors").unlink(), "has no file ckpts/ss_flow.safetensors"),
        (
            lambda home: save_file({"a": torch.zeros(1)}, home / "ckpts/ss_flow.safetensors"),
            "ss_flow.safetensors does not",
        ),
        (lambda home: (home / "ckpts/ss_flow.json").write_text('{"name": "SLatFlowModel"}'), "is of a SLatFlowModel"),
        (
            lambda home: (home / "pipeline.json").write_text('{"args": {"models": {}}}'),
            "names no sparse_structure_flow",
        ),
    ],
)
def test_damaged_layouts_say_what_is_wrong(damage, says, tmp_path):
    published(tmp_path / "trellis")
    damage(tmp_path / "trellis")
    with pytest.raises(ConfigError, match=f"^model.path: .*{says}"):
        load_backbone("volume", str(tmp_path / "trellis"))


def test_single_files_are_refused(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"model.path: family 'volume' is not published in single files"):
        load_backbone("volume", str(tmp_path / "a.safetensors"))


# ---------------------------------------------------------------- pictures as conditions


def test_pictures_are_shown_to_dinov2(tmp_path):
    published(tmp_path / "trellis", image=True)
    read = load_backbone("volume", str(tmp_path / "trellis"))
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (28, 28, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    condition = read.condition([str(tmp_path / "a.png")])
    states = condition.leaves["states"]
    assert states.shape == (1, 1 + 4 + 4, 32)  # class, registers, 2 x 2 patches
    assert not condition.null["states"].any()
    encoder = read.pipeline.image_encoder
    shown = (torch.from_numpy(pixels).permute(2, 0, 1) / 255 - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / (
        torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    )
    with torch.no_grad():
        hidden = encoder.encoder(encoder.embeddings(shown[None])).last_hidden_state  # before the last norm
    torch.testing.assert_close(states, nn.functional.layer_norm(hidden, (32,)), rtol=1e-5, atol=1e-5)
    drawn = next(
        ImageGenerator.create(read, steps=2, guidance_scale=8.5)([str(tmp_path / "a.png")], [0], view="reference")
    )
    assert drawn.shape == (1, 1, 8, 8, 8)
    with pytest.raises(ConfigError, match=r"prompt 'a table': this model is shown pictures, so a prompt is the path"):
        read.condition(["a table"])


def test_transparent_pictures_are_cut_out_on_black():
    pixels = np.zeros((40, 60, 4), np.uint8)
    pixels[10:20, 30:50] = (200, 100, 50, 255)
    seen = picture_pixels(Image.fromarray(pixels), 24)
    filled = (seen > 0.1).any(0)
    columns = torch.nonzero(filled.any(0)).flatten()
    assert filled.any(1).sum() == pytest.approx(24 * 10 / 22, abs=2)
    assert (columns.min() + columns.max()).item() == pytest.approx(23, abs=2)
    assert seen[:, 12, 12].tolist() == pytest.approx([200 / 255, 100 / 255, 50 / 255], abs=0.01)
    with pytest.raises(ConfigError, match="wholly transparent"):
        picture_pixels(Image.fromarray(np.zeros((4, 4, 4), np.uint8)), 24)


def test_shapes_of_the_full_size_model_without_its_files():
    """microsoft/TRELLIS-image-large: 1374 tokens of a picture at 518 pixels, 16^3 latents of 64^3 cells."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    backbone = load_weightless("volume", "microsoft/TRELLIS-image-large", mode, lora=LORA)
    assert (backbone.sample_shape(), backbone.media_shape()) == ((8, 16, 16, 16), (1, 64, 64, 64))
    with mode:
        assert backbone.text(["", ""])["states"].shape == (2, 37 * 37 + 1 + 4, 1024)
        assert backbone.decode(torch.zeros(1, 8, 16, 16, 16)).shape == (1, 1, 64, 64, 64)
    assert len({name.split(".lora_")[0] for name in backbone.state()}) == 24 * 5
