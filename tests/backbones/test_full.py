"""Training a whole network: frozen copies behind the other views, and the model folder that comes out."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch

from diffalign.backbones import FullSettings, load_backbone, load_network
from diffalign.denoising import denoising_errors
from diffalign.exceptions import ConfigError
from diffalign.objectives import diffusion_dpo
from tests.backbones.models import OPTIONS, PIPELINES, answer, load, load_fresh, of_test_size, path_of, training_inputs


def full(family: str, **settings):
    return load(family, FullSettings(**settings))


@torch.no_grad()
def shake(backbone, seed: int = 0, scale: float = 0.02) -> None:
    """Train a little, as it were."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in backbone.trained_parameters():
        parameter.add_(scale * torch.randn(parameter.shape, generator=generator))


def errors_of(backbone):
    x0, condition, draw = training_inputs(backbone)
    return denoising_errors(backbone.view("policy"), backbone.view("reference"), x0, condition, draw)


def dpo(errors):
    return diffusion_dpo(errors.policy, reference=errors.reference, beta=5000.0).loss


def test_first_dpo_loss_is_log_two(family):
    backbone = full(family)
    backbone.hold("reference")
    errors = errors_of(backbone)
    assert torch.equal(errors.policy, errors.reference)
    torch.testing.assert_close(dpo(errors), torch.full((2,), math.log(2)))


def test_gradients_reach_the_whole_network_and_nothing_else(family):
    backbone = full(family)
    backbone.hold("reference")
    backbone.hold("ema")
    shake(backbone)
    dpo(errors_of(backbone)).mean().backward()
    trained = {id(parameter) for parameter in backbone.trained_parameters()}
    named = dict(backbone.network.named_parameters())
    frozen = [name for name, parameter in named.items() if id(parameter) not in trained]
    assert all(".add_q_proj." in name for name in frozen)  # SD3's last block throws the text's queries away
    assert len(frozen) == {"sd3": 2}.get(family, 0)
    without = [name for name, parameter in named.items() if id(parameter) in trained and parameter.grad is None]
    assert not without  # DistributedDataParallel would wait for them for ever
    for view in ("reference", "ema"):
        assert not any(each.requires_grad for each in backbone.weights.module(view).parameters())
    parts = [part for part in backbone.pipeline.components.values() if isinstance(part, torch.nn.Module)]
    for part in parts:
        assert part is backbone.network or not any(each.requires_grad for each in part.parameters())


def test_training_moves_the_policy_alone(family):
    backbone = full(family)
    backbone.hold("reference")
    before = answer(backbone, "reference")
    backbone.snapshot("behaviour")
    shake(backbone)
    assert torch.equal(answer(backbone, "reference"), before)
    assert torch.equal(answer(backbone, "behaviour"), before)
    assert not torch.allclose(answer(backbone), before, atol=1e-4)
    assert torch.equal(before, answer(load(family, lora=None), "reference"))


def test_switching_views_never_changes_requires_grad():
    backbone = full("sd")
    backbone.hold("reference")
    backbone.snapshot("ema")
    expected = [parameter.requires_grad for parameter in backbone.network.parameters()]
    for view in ("reference", "ema", "policy"):
        with backbone.active(view):
            assert [parameter.requires_grad for parameter in backbone.network.parameters()] == expected
        answer(backbone, view)
    assert [parameter.requires_grad for parameter in backbone.network.parameters()] == expected


def test_an_error_inside_a_view_switches_back():
    backbone = full("sd")
    backbone.hold("reference")
    with pytest.raises(RuntimeError, match="on purpose"), backbone.active("reference"):
        assert backbone.wrapped is not backbone.network
        raise RuntimeError("on purpose")
    assert backbone.wrapped is backbone.network


def test_only_the_policy_goes_through_the_prepared_network():
    class Wrapper(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner, self.calls = inner, 0

        def forward(self, *args, **options):
            self.calls += 1
            return self.inner(*args, **options)

    backbone = full("sd")
    backbone.hold("reference")
    backbone.prepare(Wrapper)
    wrapper = backbone.wrapped
    answer(backbone)
    answer(backbone, "reference")
    backbone.snapshot("ema")
    answer(backbone, "ema")
    assert wrapper.calls == 1


def test_gradient_checkpointing_gives_the_same_gradient(family):
    found = []
    for saving in (False, True):
        backbone = load(family, FullSettings(), gradient_checkpointing=saving)
        backbone.hold("reference")
        shake(backbone)
        loss = dpo(errors_of(backbone)).mean()
        backbone.snapshot("ema")  # the backward pass recomputes: it must do so as the policy
        with backbone.active("reference"):
            loss.backward()
        found.append([parameter.grad for parameter in backbone.trained_parameters()])
    assert backbone.network.is_gradient_checkpointing
    for plain, recomputed in zip(*found, strict=True):
        torch.testing.assert_close(recomputed, plain, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("decay", [0.0, 0.9, 0.9999])
def test_the_average_runs_in_float32(decay):
    backbone = full("sd")
    name, policy = next(iter(backbone.network.named_parameters()))
    expected = None
    for seed in range(3):
        shake(backbone, seed)
        value = policy.detach().double()
        expected = value if expected is None else decay * expected + (1 - decay) * value
        backbone.snapshot("ema", decay)
    average = backbone.state("ema")[name]
    assert average.dtype == torch.float32
    torch.testing.assert_close(average.double(), expected, rtol=1e-6, atol=1e-7)
    assert all(torch.isfinite(each).all() for each in backbone.state("ema").values())


def test_what_is_held_is_no_view_before_it_has_weights():
    backbone = full("sd")
    backbone.hold("ema")
    with pytest.raises(ValueError, match="no view 'ema'; there are reference, policy; make one with snapshot"):
        backbone.view("ema")
    shake(backbone)
    backbone.snapshot("ema", decay=0.9)  # the first is a copy, whatever was held
    assert torch.equal(answer(backbone, "ema"), answer(backbone))


def test_a_reference_in_lower_precision():
    backbone = full("sd", reference_dtype=torch.bfloat16)
    backbone.hold("reference")
    assert {each.dtype for each in backbone.weights.module("reference").parameters()} == {torch.bfloat16}
    assert {each.dtype for each in backbone.trained_parameters()} == {torch.float32}
    with backbone.active("reference"):
        assert backbone.dtype == torch.bfloat16
    exact, rough = answer(backbone), answer(backbone, "reference")
    assert rough.dtype == torch.bfloat16 and not torch.equal(exact, rough.float())
    torch.testing.assert_close(rough.float(), exact, atol=0.1, rtol=0.1)
    same = load("sd", lora=None, dtype=torch.bfloat16).network.state_dict()
    for key, value in backbone.state("reference").items():
        assert torch.equal(value, same[key]), key


def test_a_reference_elsewhere_gets_its_inputs_there_and_its_answer_comes_back():
    """The meta device, where every machine can compute and from where nothing can be fetched, stands for the other one."""
    backbone = full("sd", reference_device="meta")
    backbone.hold("reference")
    seen = []
    inner = backbone.weights.module("reference").conv_in
    inner.register_forward_hook(lambda _, given, answer: seen.extend([given[0].device.type, answer.device.type]))
    with pytest.raises(NotImplementedError, match="Cannot copy out of meta tensor"):  # on its way back
        answer(backbone, "reference")
    assert seen == ["meta", "meta"]
    assert answer(backbone).device.type == "cpu"


@pytest.mark.gpu
def test_a_reference_on_the_cpu_beside_a_policy_on_the_gpu():
    backbone = load_backbone("sd", path_of("sd"), device="cuda", full=FullSettings(reference_device="cpu"))
    backbone.hold("reference")
    x0, draw = torch.randn(2, 4, 16, 16), torch.tensor([0.3, 0.7])
    condition = backbone.condition(["a red circle", ""])
    with torch.no_grad():
        told = [backbone.view(view)(x0.cuda(), draw.cuda(), condition) for view in ("policy", "reference")]
    assert told[1].device.type == "cuda"
    assert {each.device.type for each in backbone.weights.module("reference").parameters()} == {"cpu"}
    torch.testing.assert_close(told[0], told[1], rtol=1e-2, atol=1e-2)


def test_a_reference_that_no_one_held_is_read_when_it_is_run(family):
    backbone = load(family, FullSettings(base=partial(load_network, family, path_of(family))))
    before = answer(backbone)
    shake(backbone)
    assert backbone.weights._copies == {}
    assert torch.equal(answer(backbone, "reference"), before)
    backbone.release("reference")
    assert backbone.weights._copies == {}
    with pytest.raises(ValueError, match='no "reference" is held'):
        full("sd").view("reference")


def test_a_state_is_put_back_and_another_models_is_refused():
    backbone, other = full("sd"), full("sd")
    shake(other)
    other.snapshot("ema")
    shake(other, seed=1)
    for view in ("policy", "ema"):
        backbone.load_state(view, {key: value.clone() for key, value in other.state(view).items()})
        assert torch.equal(answer(backbone, view), answer(other, view))
    state = dict(other.state())
    first = next(iter(state))
    with pytest.raises(ValueError, match="not this network: missing"):
        backbone.load_state("policy", {key: value for key, value in state.items() if key != first})
    with pytest.raises(ValueError, match=f"{first} has shape"):
        backbone.load_state("policy", state | {first: torch.zeros(3)})


def test_diffusers_reads_the_model_that_is_written(family, tmp_path):
    backbone = load_fresh(family, None)
    backbone = type(backbone)(backbone.pipeline, trained=FullSettings(), **OPTIONS[family])
    shake(backbone)
    backbone.snapshot("ema")
    shake(backbone, seed=1)
    backbone.save_adapter(tmp_path / "model", "ema", card="# mine\n")
    assert (tmp_path / "model" / "README.md").read_text() == "# mine\n"
    absent = {"text_encoder_3": None, "tokenizer_3": None} if family == "sd3" else {}
    pipeline = PIPELINES[family].from_pretrained(tmp_path / "model", **absent)
    of_test_size(pipeline, family)
    read = type(backbone)(pipeline, **OPTIONS[family])
    torch.testing.assert_close(answer(read, "reference"), answer(backbone, "ema"), rtol=1e-5, atol=1e-5)
    backbone.load_adapter(tmp_path / "model")
    assert torch.equal(answer(backbone), answer(backbone, "ema"))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    with pytest.raises(ConfigError, match=r"no model in .*nowhere: no such folder"):
        backbone.load_adapter(tmp_path / "nowhere")


def test_frozen_parts_may_be_in_lower_precision_than_what_is_trained():
    backbone = load_backbone("sd", path_of("sd"), dtype=torch.bfloat16, full=FullSettings())
    assert backbone.pipeline.text_encoder.dtype == backbone.pipeline.vae.dtype == torch.bfloat16
    assert {each.dtype for each in backbone.trained_parameters()} == {torch.float32}
    exact = load_backbone("sd", path_of("sd"))
    for key, value in exact.network.state_dict().items():  # not through bfloat16 and back
        assert torch.equal(value, backbone.network.state_dict()[key]), key
