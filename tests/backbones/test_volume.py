"""Volumes: TRELLIS' first stage by its published names and layout, and what an adapter must hold."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPTextModel, Dinov2WithRegistersConfig, Dinov2WithRegistersModel

from diffalign.backbones import VolumeBackbone, VolumePipeline, load_backbone, load_network, load_skeleton
from diffalign.backbones.volume_autoencoder import SparseStructureAutoencoder
from diffalign.backbones.volume_network import SparseStructureFlowModel, attend, from_patches, to_patches
from diffalign.backbones.volume_pipeline import picture_pixels
from diffalign.denoising import LinearFlow, LogitNormalTime, Prediction, add_noise, denoising_errors, draw_noise
from diffalign.exceptions import ConfigError
from diffalign.objectives import diffusion_dpo
from diffalign.pipelines import ImageGenerator
from diffalign.samplers import ClassifierFree
from makers.tiny_pipelines import save_volume
from tests.backbones.models import LORA, PROMPTS, answer, load, load_fresh, path_of, perturb, training_inputs

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


# ---------------------------------------------------------------- the network


def test_patches_by_hand():
    x = torch.arange(2 * 2 * 4**3).reshape(2, 2, 4, 4, 4).float()
    tokens = to_patches(x, 2)
    assert tokens.shape == (2, 8, 16)
    assert torch.equal(tokens[1, 5], x[1, :, 2:4, 0:2, 2:4].flatten())  # x slowest: 5 is (1, 0, 1)
    assert torch.equal(from_patches(tokens, 2, x.shape[2:]), x)


def test_attention_by_hand():
    query, key, value = torch.randn(3, 2, 5, 3, 4)
    scores = torch.einsum("bqhd,bkhd->bhqk", query, key) / 2
    expected = torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), value).flatten(2)
    torch.testing.assert_close(attend(query, key, value), expected)


def test_a_block_by_the_published_formula():
    """Norm, scale and shift, attend, gate; attend to the condition ungated; norm, scale and shift, perceptron, gate."""
    network = load("volume", None).network
    block, width = network.blocks[0], network.config.model_channels
    hidden, time, cond = torch.randn(2, 64, width), torch.randn(2, width), torch.randn(2, 5, 32)
    shift, scale, gate, shift_2, scale_2, gate_2 = block.adaLN_modulation(time)[:, None].chunk(6, -1)

    def plain(x: Tensor) -> Tensor:
        return (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()

    def attention(x: Tensor) -> Tensor:
        heads = block.self_attn.to_qkv(x).reshape(2, 64, 3, 2, width // 2)
        q, k = (part / part.norm(dim=-1, keepdim=True) * (width // 2) ** 0.5 for part in heads[:, :, :2].unbind(2))
        q, k = q * block.self_attn.q_rms_norm.gamma, k * block.self_attn.k_rms_norm.gamma
        return block.self_attn.to_out(attend(q, k, heads[:, :, 2]))

    with torch.no_grad():
        expected = hidden + gate * attention(plain(hidden) * (1 + scale) + shift)
        expected = expected + block.cross_attn(block.norm2(expected), cond)
        expected = expected + gate_2 * block.mlp(plain(expected) * (1 + scale_2) + shift_2)
        torch.testing.assert_close(block(hidden, time, cond), expected, rtol=1e-4, atol=1e-5)


def test_a_new_network_predicts_nothing():
    network = SparseStructureFlowModel(**IMAGE_LARGE | {"model_channels": 48, "num_blocks": 1, "num_heads": 2})
    assert not network(torch.randn(1, 8, 16, 16, 16), torch.tensor([500.0]), torch.randn(1, 3, 1024)).any()


def test_places_are_told_apart_along_every_axis():
    network = load("volume", None).network
    x = torch.randn(1, 4, 4, 4, 4)
    with torch.no_grad():
        for axis in (2, 3, 4):
            turned = network(x.flip(axis), torch.tensor([500.0]), torch.zeros(1, 1, 32)).flip(axis)
            assert not torch.allclose(turned, network(x, torch.tensor([500.0]), torch.zeros(1, 1, 32)), atol=1e-3)


# ---------------------------------------------------------------- what every adapter must hold (the card's list)


class Oracle:
    """Answers with the velocity of a known x0 and noise."""

    process, prediction = LinearFlow(), Prediction.FLOW

    def __init__(self, x0: Tensor, noise: Tensor) -> None:
        self.velocity = (noise - x0).flatten(0, 1)

    def __call__(self, x_t: Tensor, t: Tensor, condition: object) -> Tensor:
        return self.velocity


def test_an_oracle_has_no_error_at_any_time():
    backbone = load("volume")
    x0, condition, draw = training_inputs(backbone)
    for t in (1e-3, 0.5, 1.0):
        at = replace(draw, t=torch.full_like(draw.t, t))
        errors = denoising_errors(Oracle(x0, draw.noise), None, x0, condition, at)
        assert errors.policy.max() < 1e-10


def test_x0_comes_back_from_the_target():
    x0, noise = torch.randn(2, 3, 4, 4, 4, 4).double()
    t = torch.tensor([0.01, 0.5, 0.99]).double()
    x_t = add_noise(LinearFlow(), x0, noise, t)
    torch.testing.assert_close(x_t - t[:, None, None, None, None] * (noise - x0), x0, rtol=0, atol=1e-5)


def test_one_euler_step_from_noise_reaches_x0():
    backbone = load("volume")
    x0, condition, draw = training_inputs(backbone)
    oracle = Oracle(x0, draw.noise)
    x_t = draw.noise.flatten(0, 1)
    stepped = ImageGenerator.create(backbone, steps=1).sampler.step(
        oracle, x_t, torch.tensor(1.0), torch.tensor(0.0), condition
    )
    torch.testing.assert_close(stepped.mean, x0.flatten(0, 1), rtol=0, atol=1e-5)


def test_adapters_off_is_the_reference_to_the_bit_and_the_first_loss_is_log_two():
    bare, backbone = load("volume", None), load("volume")
    x0, condition, draw = training_inputs(backbone)
    assert torch.equal(answer(bare, "reference"), answer(backbone, "reference"))
    errors = denoising_errors(backbone.view("policy"), backbone.view("reference"), x0, condition, draw)
    out = diffusion_dpo(errors.policy, reference=errors.reference, beta=500.0)
    torch.testing.assert_close(out.loss, torch.full((2,), 2.0).log())
    perturb(backbone)
    assert torch.equal(answer(bare, "reference"), answer(backbone, "reference"))


def test_errors_are_the_means_of_each_volume():
    backbone = load("volume")
    x0, condition, draw = training_inputs(backbone)
    errors = denoising_errors(backbone.view("policy"), None, x0, condition, draw).policy
    for group, member in itertools.product(range(2), range(2)):
        one, noise, t = x0[group, member][None], draw.noise[group, member][None], draw.t[group, member][None]
        with torch.no_grad():
            answered = backbone.view("policy")(
                add_noise(backbone.process, one, noise, t), t, condition[group : group + 1]
            )
        expected = (answered - (noise - one)).square().mean()
        torch.testing.assert_close(errors[group, member], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("steps", "strength"), [(1, 0.0), (6, 0.0), (6, 7.5)])
def test_sampling_is_the_published_sampler(steps, strength):
    """Its loop, written out: times 1 to 0 rescaled by k = 3, model time x1000, (1 + w) c - w u, Euler."""
    backbone, network = load("volume", None), load("volume", None).network
    given = backbone.text(["a red circle", "two crosses"])["states"]
    empty = backbone.text([""])["states"].expand_as(given)
    x_t = torch.stack([torch.randn(4, 4, 4, 4, generator=torch.Generator().manual_seed(seed)) for seed in (5, 6)])
    even = np.linspace(1, 0, steps + 1)
    times = 3 * even / (1 + 2 * even)
    with torch.no_grad():
        for t, t_next in itertools.pairwise(times.tolist()):
            told = torch.full((2,), 1000 * t)
            velocity = (1 + strength) * network(x_t, told, given) - strength * network(x_t, told, empty)
            x_t = x_t - (t - t_next) * velocity
    torch.testing.assert_close(backbone.times(steps), torch.tensor(times).float())
    generator = ImageGenerator.create(backbone, steps=steps, guidance_scale=1 + strength)
    ours = next(generator.latents(["a red circle", "two crosses"], [5, 6], view="reference"))
    torch.testing.assert_close(ours, x_t, rtol=1e-4, atol=1e-4)


def test_guidance_is_the_published_one_with_one_added():
    backbone = load("volume")
    x0, condition, draw = training_inputs(backbone)
    view, x_t, t = backbone.view("reference"), x0[:, 0], draw.t[:, 0]
    with torch.no_grad():
        given, without = view(x_t, t, condition), view(x_t, t, condition.unconditional())
        guided = ClassifierFree(view, 1 + 7.5)(x_t, t, condition)
    torch.testing.assert_close(guided, (1 + 7.5) * given - 7.5 * without, rtol=1e-4, atol=1e-4)


def test_the_published_law_of_times_can_be_drawn():
    """sigmoid(1 + z): its median is 0.731059, its quartiles sigmoid(1 -+ 0.6745)."""
    sample = LogitNormalTime(1.0, 1.0)
    draw = draw_noise(torch.zeros(20_000, 1, 1), sample, generator=torch.Generator().manual_seed(0))
    found = torch.quantile(draw.t.flatten(), torch.tensor([0.25, 0.5, 0.75]))
    torch.testing.assert_close(found, torch.sigmoid(1 + torch.tensor([-0.6745, 0, 0.6745])), rtol=0, atol=0.01)


# ---------------------------------------------------------------- occupancy


def test_occupancy_is_filled_where_the_decoder_is_above_zero():
    backbone = load("volume", None)
    x0 = torch.randn(2, *backbone.sample_shape())
    with torch.no_grad():
        logits = backbone.pipeline.vae.decoder(x0)
    occupancy = backbone.decode(x0)
    assert occupancy.shape == (2, 1, 8, 8, 8) and occupancy.min() >= 0 and occupancy.max() <= 1
    assert torch.equal(occupancy > 0.5, logits > 0)
    assert backbone.medium == "volume" and load("sd", None).medium == "image"


def test_encoding_draws_from_the_posterior():
    backbone = load("volume", None)
    media = (torch.rand(1, 1, 8, 8, 8) > 0.5).float()
    posterior = backbone.posterior(media)
    assert posterior.mean.shape == (1, *backbone.sample_shape())
    draws = torch.stack([backbone.encode(media, generator=torch.Generator().manual_seed(seed)) for seed in range(30)])
    standard = (draws - posterior.mean) / (posterior.log_variance / 2).exp()
    assert standard.std().item() == pytest.approx(1, rel=0.05)


def test_without_an_autoencoder_the_latent_is_occupancy():
    first = load("volume", None)
    plain = VolumePipeline(**{**first.pipeline.components, "vae": None})
    plain.transformer = SparseStructureFlowModel(
        **IMAGE_LARGE
        | {
            "in_channels": 1,
            "out_channels": 1,
            "model_channels": 48,
            "num_blocks": 1,
            "num_heads": 2,
            "cond_channels": 32,
        }
    )
    backbone = VolumeBackbone(plain)
    media = (torch.rand(3, 1, 16, 16, 16) > 0.5).float()
    x0 = backbone.encode(media)
    assert set(x0.unique().tolist()) == {-1.0, 1.0}
    assert torch.equal(backbone.decode(x0), media)
    assert torch.equal(backbone.encode(media, generator=torch.Generator().manual_seed(0)), x0)
    assert (backbone.resolution, backbone.sample_shape()) == (16, (1, 16, 16, 16))
    assert backbone.autoencoder_identity() != first.autoencoder_identity()
    assert len(backbone.fingerprint("vae")) == 32


def test_one_resolution_alone():
    backbone = load("volume", None)
    assert backbone.checked_resolution(None) == backbone.checked_resolution(8) == backbone.largest_side == 8
    with pytest.raises(ConfigError, match=r"data.resolution: this model works at 8 cells along a side alone, got 16"):
        backbone.sample_shape(16)


def test_fingerprints_change_with_what_they_are_of():
    first, second = load_fresh("volume", None), load_fresh("volume", None)
    parts = ("vae", "text", "network")
    assert [first.fingerprint(part) for part in parts] == [second.fingerprint(part) for part in parts]
    for part, name in (("vae", "vae"), ("text", "text_encoder"), ("network", "transformer")):
        with torch.no_grad():
            next(getattr(second.pipeline, name).parameters()).view(-1)[0].add_(0.1)
        assert first.fingerprint(part) != second.fingerprint(part)


def test_a_folder_without_an_encoder_loads(tmp_path):
    backbone = load_backbone("volume", str(save_volume(tmp_path / "model", encoder=False)))
    assert backbone.pipeline.vae.encoder is None
    assert isinstance(backbone.pipeline.text_encoder, CLIPTextModel)
