"""Pictures from prompts: the same latents as diffusers' own pipelines, and no dependence on the batch.

Tolerance against diffusers: 2e-5 absolute and 1e-5 relative after up to 20 steps, in float32 on a CPU. Measured, on
latents as large as 3: at most 1.3e-6 for DDIM (the order of operations differs), and 0 for flow Euler; 8.5e-6 for
DPM-Solver++ and 5.5e-6 for Heun, below.
"""

from __future__ import annotations

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
)

from diffalign.backbones import SD3Backbone, SDBackbone
from diffalign.config.samplers import SAMPLER_PARAMS
from diffalign.exceptions import ConfigError
from diffalign.pipelines import ImageGenerator
from diffalign.pipelines.generate import SAMPLERS
from diffalign.samplers import DDIM, DPMSolverPP, FlowEuler, FlowHeun, FlowSDE, Windowed
from diffalign.training.build_sampler import build_sampler
from tests.backbones.models import FAMILIES, PROMPTS, diffusers_pictures, diffusers_pipeline, load, perturb

SEEDS = [5, 6, 7, 8]
CLOSE = {"rtol": 1e-5, "atol": 2e-5}
NAMES = "ddim, dpm_solver_pp, flow_euler, flow_heun, flow_sde"


@pytest.fixture(scope="module", params=FAMILIES)
def backbone(request):
    loaded = load(request.param)
    perturb(loaded)
    return loaded


def _ours(backbone, count=2, view="reference", **options):
    generator = ImageGenerator.create(backbone, **options)
    return torch.cat(list(generator.latents(PROMPTS[:count], SEEDS[:count], view=view)))


def _theirs(pipeline, family, count=2, output_type="latent", **options):
    return diffusers_pictures(pipeline, family, PROMPTS[:count], SEEDS[:count], output_type, **options)


@pytest.mark.parametrize(("steps", "guidance"), [(1, 1.0), (4, 3.0), (7, 1.0), (20, 1.0), (20, 3.0)])
def test_latents_are_those_of_diffusers(backbone, steps, guidance):
    pipeline = diffusers_pipeline(backbone.family)
    theirs = _theirs(pipeline, backbone.family, num_inference_steps=steps, guidance_scale=guidance)
    ours = _ours(backbone, steps=steps, guidance_scale=guidance)
    print(backbone.family, steps, guidance, (ours - theirs).abs().max(), theirs.abs().max())
    torch.testing.assert_close(ours, theirs, **CLOSE)


def test_stochastic_ddim_draws_diffusers_noise():
    """The generator of a picture goes on from its starting noise, as in the pipeline."""
    theirs = _theirs(diffusers_pipeline("sd"), "sd", num_inference_steps=5, guidance_scale=1.0, eta=0.7)
    torch.testing.assert_close(_ours(load("sd"), steps=5, eta=0.7), theirs, **CLOSE)
    assert not torch.allclose(_ours(load("sd"), steps=5), theirs, atol=0.01)


@pytest.mark.parametrize("final", ["zero", "sigma_min"])
def test_dpm_solver_is_that_of_diffusers(final):
    """At its scheduler's own times."""
    pipeline = diffusers_pipeline("sd")
    scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config, final_sigmas_type=final)
    pipeline.scheduler = scheduler
    theirs = _theirs(pipeline, "sd", num_inference_steps=8, guidance_scale=3.0)
    backbone = load("sd")
    last = torch.tensor(0.0) if final == "zero" else backbone.process.time_of(torch.tensor(0.0))
    times = torch.cat([backbone.process.time_of(scheduler.timesteps.float()), last[None]])
    generator = ImageGenerator(backbone, DPMSolverPP.for_times(times), times, guidance_scale=3.0)
    ours = torch.cat(list(generator.latents(PROMPTS[:2], SEEDS[:2], view="reference")))
    print(final, (ours - theirs).abs().max(), theirs.abs().max())
    torch.testing.assert_close(ours, theirs, **CLOSE)


def test_heun_is_that_of_diffusers():
    """At its scheduler's own times."""
    pipeline = diffusers_pipeline("sd3")
    pipeline.scheduler = FlowMatchHeunDiscreteScheduler(shift=3.0)
    theirs = _theirs(pipeline, "sd3", num_inference_steps=4, guidance_scale=3.0)
    passed = pipeline.scheduler.timesteps
    times = torch.cat([torch.cat([passed[:1], passed[1::2]]) / 1000, torch.zeros(1)])
    generator = ImageGenerator(load("sd3"), FlowHeun(), times, guidance_scale=3.0)
    ours = torch.cat(list(generator.latents(PROMPTS[:2], SEEDS[:2], view="reference")))
    print((ours - theirs).abs().max(), theirs.abs().max())
    torch.testing.assert_close(ours, theirs, **CLOSE)


@pytest.mark.parametrize(
    ("steps", "changes"),
    [
        (5, {"set_alpha_to_one": True}),
        (5, {"timestep_spacing": "trailing", "set_alpha_to_one": True}),
        (5, {"prediction_type": "v_prediction"}),
        (5, {"prediction_type": "sample"}),
        (10, {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}),
    ],
)
def test_scheduler_settings_of_sd_are_followed(steps, changes):
    """The last row is the recipe of zero-terminal-SNR checkpoints: the first step has no signal at all."""
    pipeline = diffusers_pipeline("sd")
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, **changes)
    theirs = _theirs(pipeline, "sd", num_inference_steps=steps, guidance_scale=3.0)
    assert theirs.isfinite().all()
    torch.testing.assert_close(_ours(SDBackbone(pipeline), steps=steps, guidance_scale=3.0), theirs, **CLOSE)


def test_shift_of_sd3_is_followed():
    pipeline = diffusers_pipeline("sd3")
    pipeline.scheduler = FlowMatchEulerDiscreteScheduler.from_config(pipeline.scheduler.config, shift=3.0)
    theirs = _theirs(pipeline, "sd3", num_inference_steps=5, guidance_scale=1.0)
    backbone = SD3Backbone(pipeline, max_sequence_length=1)
    torch.testing.assert_close(_ours(backbone, steps=5), theirs, **CLOSE)
    assert not torch.allclose(_ours(load("sd3"), steps=5), theirs, atol=0.01)


def test_pictures_are_those_of_diffusers(backbone):
    theirs = _theirs(
        diffusers_pipeline(backbone.family),
        backbone.family,
        output_type="pt",
        num_inference_steps=4,
        guidance_scale=3.0,
    )
    generator = ImageGenerator.create(backbone, steps=4, guidance_scale=3.0)
    ours = torch.cat(list(generator(PROMPTS[:2], SEEDS[:2], view="reference")))
    assert ours.shape == (2, 3, 32, 32)
    torch.testing.assert_close(ours, theirs, **CLOSE)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_a_picture_does_not_depend_on_its_batch(backbone, eta):
    """Batches of 1, 3 and 4, and another order: equal to 5e-5. One network differs by rounding between batch sizes."""
    options = {"sampler": "ddim", "steps": 2, "guidance_scale": 2.0, "eta": eta}
    together = _ours(backbone, 4, batch=4, view="policy", **options)
    for batch in (1, 3):
        alone = _ours(backbone, 4, batch=batch, view="policy", **options)
        torch.testing.assert_close(alone, together, rtol=1e-5, atol=5e-5)
    generator = ImageGenerator.create(backbone, **options)
    turned = torch.cat(list(generator.latents(PROMPTS[::-1], SEEDS[::-1])))
    torch.testing.assert_close(turned.flip(0), together, rtol=1e-5, atol=5e-5)


def test_batches_come_one_by_one(backbone):
    generator = ImageGenerator.create(backbone, steps=1, batch=3)
    assert [len(latents) for latents in generator.latents(PROMPTS, SEEDS)] == [3, 1]
    assert list(generator.latents([], [])) == []


def test_views_seeds_and_prompts_matter(backbone):
    generator = ImageGenerator.create(backbone, steps=2)

    def draw(prompt, seed, view):
        return next(generator.latents([prompt], [seed], view=view))

    first = draw("a red circle", 1, "policy")
    assert torch.equal(first, draw("a red circle", 1, "policy"))
    for other in (("a red circle", 1, "reference"), ("a red circle", 2, "policy"), ("a blue cross", 1, "policy")):
        assert not torch.allclose(first, draw(*other), atol=1e-4)


def test_the_familys_own_sampler_and_steps(backbone):
    own = ImageGenerator.create(backbone)
    expected = (DDIM(), 51) if backbone.family in ("sd", "sdxl") else (FlowEuler(), 29)
    assert (own.sampler, len(own.times)) == expected
    assert own.guidance_scale == 1.0
    assert own.times[0] > own.times[-1] and (own.times.diff() < 0).all()


def test_resolution_can_be_chosen():  # the zoo's transformer has position embeddings for its own size only
    generator = ImageGenerator.create(load("sd"), steps=1, resolution=48)
    assert next(generator(["a red circle"], [0], view="reference")).shape == (1, 3, 48, 48)


@pytest.mark.parametrize(
    ("family", "wish", "says"),
    [
        ("sd", {"steps": 0}, "steps: must be from 1 to 1000"),
        ("sd", {"steps": -1}, "steps: must be from 1 to 1000"),
        ("sd", {"sampler": "flow_euler"}, "sampler: flow_euler needs a flow model, and this one is none; use ddim"),
        ("sd", {"sampler": "flow_sde"}, "sampler: flow_sde needs a flow model, and this one is none; use ddim"),
        ("sd", {"sampler": FlowHeun()}, "sampler: flow_heun needs a flow model"),
        ("sd", {"sampler": "dimm"}, f"sampler: must be one of {NAMES}, got 'dimm'; did you mean ddim?"),
        ("sd", {"sampler": ""}, f"sampler: must be one of {NAMES}, got ''"),
        ("sd", {"eta": 1.5}, "eta: must be from 0 to 1, got 1.5"),
        ("sd", {"batch": 0}, "batch: must be at least 1, got 0"),
        ("sd", {"resolution": 33}, "resolution: must be a positive multiple of 4"),
        ("sd", {"resolution": 0}, "resolution: must be a positive multiple of 4"),
        ("sd3", {"eta": 0.7}, "eta: is a setting of the samplers ddim and flow_sde, and this is flow_euler"),
        ("sd3", {"eta": 0.0, "sampler": "flow_euler"}, "eta: is a setting of the samplers ddim and flow_sde"),
        ("sd3", {"eta": 0.0, "sampler": "flow_sde"}, "eta: must be > 0, got 0"),
        ("sd3", {"steps": 0}, "steps: must be from 1 to 1000"),
    ],
)
def test_what_the_model_cannot_do_is_refused_and_not_replaced(family, wish, says):
    with pytest.raises(ConfigError) as caught:
        ImageGenerator.create(load(family), **wish)
    assert str(caught.value).startswith(says)


def test_another_generator_s_settings_stand_where_none_is_given():
    backbone = load("sd")
    first = ImageGenerator.create(backbone, steps=3, eta=0.5, guidance_scale=2.0, batch=5, resolution=16)
    again = ImageGenerator.create(backbone, like=first)
    assert (again.sampler, again.guidance_scale, again.batch, again.resolution) == (DDIM(0.5), 2.0, 5, 16)
    assert torch.equal(again.times, first.times)
    other = ImageGenerator.create(backbone, like=first, steps=7, eta=0.0, guidance_scale=0.0, batch=1, resolution=32)
    assert (other.sampler, len(other.times)) == (DDIM(0.0), 8)
    assert (other.guidance_scale, other.batch, other.resolution) == (0.0, 1, 32)
    flow = ImageGenerator.create(load("sd3"), steps=3)
    assert ImageGenerator.create(flow.backbone, sampler="ddim", like=flow).sampler == DDIM()


def test_samplers_by_name_have_the_defaults_of_their_settings():
    backbones = {"any": load("sd"), "flow": load("sd3")}
    assert [params.model_fields["name"].default for params in SAMPLER_PARAMS] == list(SAMPLERS) == NAMES.split(", ")
    for params in SAMPLER_PARAMS:
        settings = params()
        backbone = backbones[settings.families]
        named = ImageGenerator.create(backbone, sampler=settings.name)
        assert len(named.times) - 1 == settings.steps
        assert named.sampler == build_sampler(settings, named.times)


def test_eta_and_steps_reach_the_sampler():
    sd, sd3 = load("sd"), load("sd3")
    assert ImageGenerator.create(sd3, sampler="flow_sde", eta=0.3).sampler == FlowSDE(eta=0.3)
    windowed = Windowed(FlowSDE(), FlowEuler(), 0.9, 0.5)
    own = ImageGenerator.create(sd3, sampler=windowed, steps=4)
    assert ImageGenerator.create(sd3, like=own, eta=0.2).sampler == Windowed(FlowSDE(eta=0.2), FlowEuler(), 0.9, 0.5)
    few = ImageGenerator.create(sd, sampler="dpm_solver_pp", steps=10)
    assert few.sampler == DPMSolverPP(last=few.times[-1].item())
    assert ImageGenerator.create(sd, like=few, steps=15).sampler == DPMSolverPP()


def test_ddim_on_a_flow_is_euler():
    backbone = load("sd3")
    torch.testing.assert_close(_ours(backbone, steps=4, sampler="ddim"), _ours(backbone, steps=4), rtol=1e-4, atol=1e-4)


def test_one_seed_per_prompt(backbone):
    generator = ImageGenerator.create(backbone, steps=1)
    with pytest.raises(ValueError, match="2 prompts and 1 seeds"):
        next(generator.latents(PROMPTS[:2], [1]))


def test_the_global_generator_is_left_alone(backbone):
    before = torch.get_rng_state()
    _ours(backbone, steps=2, guidance_scale=2.0)
    assert torch.equal(torch.get_rng_state(), before)
