"""Volumes: the network by hand, what an adapter must hold (the card's list), and occupancy."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import CLIPTextModel

from diffalign.backbones import VolumeBackbone, VolumePipeline, load_backbone
from diffalign.backbones.volume_network import SparseStructureFlowModel, attend, from_patches, to_patches
from diffalign.denoising import LinearFlow, LogitNormalTime, Prediction, add_noise, denoising_errors, draw_noise
from diffalign.exceptions import ConfigError
from diffalign.objectives import diffusion_dpo
from diffalign.pipelines import ImageGenerator
from diffalign.samplers import ClassifierFree
from makers.tiny_pipelines import save_volume
from tests.backbones.models import answer, load, load_fresh, perturb, training_inputs

SMALL = {
    "resolution": 16,
    "in_channels": 1,
    "out_channels": 1,
    "model_channels": 48,
    "cond_channels": 32,
    "num_blocks": 1,
    "num_heads": 2,
    "patch_size": 4,
}


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
    network = SparseStructureFlowModel(**SMALL)
    assert not network(torch.randn(1, 1, 16, 16, 16), torch.tensor([500.0]), torch.randn(1, 3, 32)).any()


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
    plain.transformer = SparseStructureFlowModel(**SMALL)
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
