"""A frozen base in 8 or 4 bit: refusals everywhere, LoRA on quantised layers where bitsandbytes is installed."""

from __future__ import annotations

import importlib.util
import sys

import pytest
import torch

from diffalign.backbones import LoRASettings, load_backbone
from diffalign.backbones.quantise import quantisation_of
from diffalign.config.run import OptimizerConfig
from diffalign.denoising import denoising_errors
from diffalign.exceptions import ConfigError, MissingExtraError
from diffalign.objectives import diffusion_dpo
from diffalign.training.optimizer import build_optimizer
from tests.backbones.models import LORA, answer, diffusers_pipeline, load, perturb, training_inputs

HERE = importlib.util.find_spec("bitsandbytes") is not None
needs_bitsandbytes = pytest.mark.skipif(not HERE, reason="bitsandbytes (extra eightbit) is not installed")


@pytest.fixture
def absent(monkeypatch):
    """No bitsandbytes, whether or not it is installed."""
    find = importlib.util.find_spec
    hidden = {"bitsandbytes"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name in hidden else find(name, *more))
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)


@pytest.mark.parametrize("bits", ["8bit", "4bit"])
def test_without_bitsandbytes_the_extra_is_named(absent, bits):
    message = rf"model\.quantise: {bits} needs 'bitsandbytes' and a CUDA device; .*pip install 'diffalign\[eightbit\]'"
    with pytest.raises(MissingExtraError, match=message):
        load_backbone("sd", "zoo://shapes-sd", lora=LORA, quantise=bits)


def test_without_bitsandbytes_the_optimizer_says_so_too(absent):
    settings = OptimizerConfig(name="adamw8bit", learning_rate=1e-3)
    with pytest.raises(
        MissingExtraError, match=r"optimizer\.name: adamw8bit needs 'bitsandbytes' .*diffalign\[eightbit\]"
    ):
        build_optimizer(settings, [torch.nn.Parameter(torch.zeros(2))])


def test_without_cuda_it_is_refused_before_anything_is_read(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: object())
    with pytest.raises(
        ConfigError, match=r"model\.quantise: 4bit needs a CUDA device, got cpu; leave it out, or train"
    ):
        load_backbone("sd", "nowhere", lora=LORA, quantise="4bit")


def quantised(family: str, bits: str):
    """A pipeline whose linear layers are bitsandbytes', as diffusers' quantizer makes them on a GPU."""
    import bitsandbytes as bnb

    pipeline = diffusers_pipeline(family)
    network = getattr(pipeline, "unet" if family == "sd" else "transformer")
    for name, layer in list(network.named_modules()):
        if type(layer) is not torch.nn.Linear or "attn" not in name:
            continue
        size, bias = (layer.in_features, layer.out_features), layer.bias is not None
        if bits == "4bit":
            new = bnb.nn.Linear4bit(*size, bias=bias, compute_dtype=torch.float32, quant_type="nf4")
            new.weight = bnb.nn.Params4bit(layer.weight.data, requires_grad=False, quant_type="nf4")
        else:
            new = bnb.nn.Linear8bitLt(*size, bias=bias, has_fp16_weights=False)
            new.weight = bnb.nn.Int8Params(layer.weight.data, requires_grad=False, has_fp16_weights=False)
        if bias:
            new.bias = layer.bias
        home, _, last = name.rpartition(".")
        setattr(network.get_submodule(home), last, new.to("cpu"))
    return pipeline


@needs_bitsandbytes
@pytest.mark.parametrize("bits", ["4bit", "8bit"])
@pytest.mark.parametrize("family", ["sd", "sd3"])
def test_a_lora_on_a_quantised_base(family, bits, tmp_path):
    plain = load(family)
    options = {"max_sequence_length": 1} if family == "sd3" else {}
    backbone = type(plain)(quantised(family, bits), trained=LORA, **options)
    for (
        layer
    ) in backbone.network.modules():  # on a CPU, in eval mode, bitsandbytes packs weights so that no gradient passes
        if type(layer).__name__ == "Linear4bit" and "bitsandbytes" in type(layer).__module__:
            layer.train()
    rough, exact = answer(backbone, "reference"), answer(plain, "reference")
    assert not torch.equal(rough, exact)  # it is quantised
    torch.testing.assert_close(rough, exact, rtol=0.5, atol=0.5)
    assert torch.equal(answer(backbone), rough)
    assert {each.dtype for each in backbone.trained_parameters()} == {torch.float32}
    assert backbone.dtype == torch.float32
    perturb(backbone)
    x0, condition, draw = training_inputs(backbone)
    errors = denoising_errors(backbone.view("policy"), backbone.view("reference"), x0, condition, draw)
    diffusion_dpo(errors.policy, reference=errors.reference, beta=100.0).loss.mean().backward()
    moved = [each for each in backbone.trained_parameters() if each.grad is not None and each.grad.abs().max() > 0]
    assert len(moved) >= 0.9 * len(backbone.trained_parameters())
    assert len(backbone.fingerprint("network")) == 32
    backbone.snapshot("ema", decay=0.9)
    backbone.save_adapter(tmp_path / "adapter", "ema")
    plain.load_adapter(tmp_path / "adapter")  # the LoRA is as good as any other
    going_on = load(family, LoRASettings(None, None, start=tmp_path / "adapter"))
    assert torch.equal(answer(going_on), answer(plain))


@needs_bitsandbytes
@pytest.mark.parametrize("bits", ["8bit", "4bit"])
def test_what_diffusers_is_told(bits):
    told = quantisation_of("unet", bits, torch.bfloat16).quant_mapping
    assert told.keys() == {"unet"}
    assert (told["unet"].load_in_8bit, told["unet"].load_in_4bit) == (bits == "8bit", bits == "4bit")
    if bits == "4bit":
        assert told["unet"].bnb_4bit_quant_type == "nf4"
        assert told["unet"].bnb_4bit_compute_dtype == torch.bfloat16


@needs_bitsandbytes
def test_adamw_in_8_bit_learns_and_its_state_is_put_back():
    settings = OptimizerConfig(name="adamw8bit", learning_rate=1e-2)
    target = torch.randn(64, 128, generator=torch.Generator().manual_seed(0))
    weight = torch.nn.Parameter(torch.zeros(64, 128))  # 8192 elements: 4096 is where 8 bit begins
    optimizer = build_optimizer(settings, [weight])

    def step(weight, optimizer):
        optimizer.zero_grad()
        (weight - target).square().mean().backward()
        optimizer.step()

    for _ in range(50):
        step(weight, optimizer)
    assert (weight - target).square().mean() < 0.6 * target.square().mean()
    assert optimizer.state[weight]["state1"].dtype == torch.uint8
    copy = torch.nn.Parameter(weight.detach().clone())
    again = build_optimizer(settings, [copy])
    again.load_state_dict(optimizer.state_dict())
    step(weight, optimizer)
    step(copy, again)
    assert torch.equal(weight, copy)


@pytest.mark.gpu
@needs_bitsandbytes
@pytest.mark.parametrize("bits", ["8bit", "4bit"])
def test_loaded_quantised_on_a_gpu(bits):
    backbone = load_backbone("sd", "zoo://shapes-sd", device="cuda", dtype=torch.bfloat16, lora=LORA, quantise=bits)
    kinds = {type(each).__name__ for each in backbone.network.modules()}
    assert {"8bit": "Linear8bitLt", "4bit": "Linear4bit"}[bits] in kinds
    assert backbone.dtype == torch.bfloat16
    condition = backbone.condition(["a red circle"])
    x_t, t = torch.randn(1, 4, 16, 16, device="cuda"), torch.tensor([0.5], device="cuda")
    out = backbone.view("policy")(x_t, t, condition)
    out.float().square().mean().backward()
    assert any(each.grad is not None and each.grad.abs().max() > 0 for each in backbone.trained_parameters())
