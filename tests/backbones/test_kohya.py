"""The names that kohya's sd-scripts and ComfyUI know a LoRA's tensors by."""

from __future__ import annotations

import pytest
import torch
from accelerate import init_empty_weights
from diffusers import UNet2DConditionModel
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors import safe_open

from diffalign.backbones import LoRASettings, load_skeleton, put_adapter, write_kohya
from diffalign.backbones.kohya import kohya_tensors, original_name
from diffalign.exceptions import ConfigError
from tests.backbones.models import FAMILIES, NETWORKS, PIPELINES, answer, load, load_fresh, path_of, perturb

SDXL = {  # stable-diffusion-xl-base-1.0, unet/config.json
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": (5, 10, 20),
    "transformer_layers_per_block": (1, 2, 10),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


def test_volumes_have_no_file_that_other_programs_read(tmp_path):
    with pytest.raises(ConfigError, match=r"--format: kohya's is for sd, sdxl, sd3, flux, .* family 'volume'"):
        write_kohya(tmp_path / "lora.safetensors", "volume", load("volume").network, "policy", "mine")


def sdxl_unet() -> UNet2DConditionModel:
    with init_empty_weights():
        return UNet2DConditionModel(**SDXL)


def names_of_the_original() -> set[str]:
    """Every layer with a weight in the UNet of sd_xl_base_1.0.safetensors, from its own configuration.

    model_channels 320, channel_mult [1, 2, 4], num_res_blocks 2, attention at the second and third level, of depth
    [1, 2, 10]: generative-models' sd_xl_base.yaml and openaimodel.py.
    """
    names = {"time_embed.0", "time_embed.2", "label_emb.0.0", "label_emb.0.2", "input_blocks.0.0", "out.0", "out.2"}

    def resnet(home: str, *, skip: bool) -> None:
        layers = ["in_layers.0", "in_layers.2", "emb_layers.1", "out_layers.0", "out_layers.3"]
        names.update(f"{home}.{layer}" for layer in [*layers, *(["skip_connection"] if skip else [])])

    def transformer(home: str, depth: int) -> None:
        names.update(f"{home}.{layer}" for layer in ("norm", "proj_in", "proj_out"))
        attention = ["to_q", "to_k", "to_v", "to_out.0"]
        inner = [f"{attn}.{layer}" for attn in ("attn1", "attn2") for layer in attention]
        inner += ["ff.net.0.proj", "ff.net.2", "norm1", "norm2", "norm3"]
        names.update(f"{home}.transformer_blocks.{block}.{layer}" for block in range(depth) for layer in inner)

    depths = [0, 2, 10]
    place = 1
    for level, depth in enumerate(depths):
        for number in range(2):
            resnet(f"input_blocks.{place}.0", skip=level > 0 and number == 0)
            if depth:
                transformer(f"input_blocks.{place}.1", depth)
            place += 1
        if level < 2:
            names.add(f"input_blocks.{place}.0.op")
            place += 1
    resnet("middle_block.0", skip=False)
    transformer("middle_block.1", 10)
    resnet("middle_block.2", skip=False)
    place = 0
    for depth in reversed(depths):
        for number in range(3):
            resnet(f"output_blocks.{place}.0", skip=True)
            if depth:
                transformer(f"output_blocks.{place}.1", depth)
            if number == 2 and depth:
                names.add(f"output_blocks.{place}.2.conv")
            place += 1
    return names


def test_every_layer_of_the_full_size_sdxl_has_the_originals_name():
    layers = [
        name for name, module in sdxl_unet().named_modules() if isinstance(module, torch.nn.Linear | torch.nn.Conv2d)
    ]
    ours = [original_name(layer, 2) for layer in layers]
    assert len(set(ours)) == len(ours) == 794  # 743 linear layers and 51 convolutions
    norms = {name for name in names_of_the_original() if name.split(".")[-1].startswith("norm")}
    norms |= {name for name in names_of_the_original() if name.endswith(("in_layers.0", "out_layers.0"))} | {"out.0"}
    assert set(ours) == names_of_the_original() - norms


def test_a_lora_on_the_full_size_sdxl_has_kohyas_keys(tmp_path):
    unet = sdxl_unet()
    targets = ("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2")
    from diffalign.backbones.lora import add_adapter, draw_adapter, fresh_config

    settings = LoRASettings(2, 1.0, targets)
    with init_empty_weights(include_buffers=False):
        add_adapter(unet, "policy", fresh_config(unet, settings, (), ()))
    for layer in unet.modules():
        if hasattr(layer, "lora_A") and "policy" in layer.lora_A:
            layer.lora_A["policy"].to_empty(device="cpu")
            layer.lora_B["policy"].to_empty(device="cpu")
    draw_adapter(unet, "policy", settings)
    tensors = kohya_tensors("sdxl", unet, "policy")
    assert len(tensors) == 3 * 722  # sd-scripts: "create LoRA for U-Net: 722 modules"
    allowed = {"lora_unet_" + name.replace(".", "_") for name in names_of_the_original()}
    assert {key.split(".")[0] for key in tensors} <= allowed
    key = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"
    assert tensors[f"{key}.lora_down.weight"].shape == (2, 640) and tensors[f"{key}.alpha"] == 1.0
    assert "lora_unet_output_blocks_5_1_transformer_blocks_1_ff_net_0_proj.lora_up.weight" in tensors


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        ("down_blocks.2.attentions.1.proj_in", "input_blocks.8.1.proj_in"),
        (
            "mid_block.attentions.0.transformer_blocks.9.attn2.to_out.0",
            "middle_block.1.transformer_blocks.9.attn2.to_out.0",
        ),
        ("mid_block.resnets.1.conv1", "middle_block.2.in_layers.2"),
        (
            "up_blocks.0.attentions.2.transformer_blocks.0.attn2.to_v",
            "output_blocks.2.1.transformer_blocks.0.attn2.to_v",
        ),
        ("down_blocks.1.downsamplers.0.conv", "input_blocks.6.0.op"),
        ("up_blocks.1.upsamplers.0.conv", "output_blocks.5.2.conv"),
        ("up_blocks.2.resnets.2.conv_shortcut", "output_blocks.8.0.skip_connection"),
    ],
)
def test_names_by_hand(layer, name):
    assert original_name(layer, 2) == name


def test_diffusers_answers_the_same_with_the_file(family, tmp_path):
    backbone = load(family)
    perturb(backbone)
    file = tmp_path / "lora.safetensors"
    write_kohya(file, family, backbone.network, "policy", "mine", {"ss_seed": "3"})
    read = load_fresh(family, None)
    assert not torch.allclose(answer(read, "reference"), answer(backbone), atol=1e-3)
    read.pipeline.load_lora_weights(file)
    torch.testing.assert_close(answer(read, "reference"), answer(backbone), rtol=1e-5, atol=3e-6)
    assert [path.name for path in tmp_path.iterdir()] == ["lora.safetensors"]


def test_training_goes_on_from_the_file(family, tmp_path):
    backbone = load(family)
    perturb(backbone)
    write_kohya(tmp_path / "lora.safetensors", family, backbone.network, "policy", "mine")
    going_on = load(family, LoRASettings(None, None, start=tmp_path / "lora.safetensors"))
    torch.testing.assert_close(answer(going_on), answer(backbone), rtol=1e-5, atol=3e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_comfyui_reads(family, tmp_path):
    backbone = load(family)
    write_kohya(tmp_path / "lora.safetensors", family, backbone.network, "policy", "mine", {"ss_seed": "3"})
    with safe_open(tmp_path / "lora.safetensors", "pt") as file:
        keys, metadata = set(file.keys()), file.metadata()
        unet = family in ("sd", "sdxl")
        ends = (".lora_down.weight", ".lora_up.weight", ".alpha") if unet else (".lora_A.weight", ".lora_B.weight")
        assert all(key.startswith("lora_unet_" if unet else "transformer.") and key.endswith(ends) for key in keys)
        alphas = {float(file.get_tensor(key)) for key in keys if key.endswith(".alpha")}
    assert alphas == ({10.0} if unet else set())
    versions = {"sd": "sd_v1", "sdxl": "sdxl_base_v1-0", "sd3": "sd3", "flux": "flux1"}
    assert metadata["ss_base_model_version"] == versions[family]
    assert (metadata["ss_network_module"], metadata["ss_network_dim"], metadata["ss_seed"]) == (
        "networks.lora",
        "4",
        "3",
    )
    assert metadata["ss_network_alpha"] == ("10.0" if unet else "4.0")  # of the transformers it is in the weights


def test_a_skeleton_carries_an_adapter_over(family, tmp_path):
    backbone = load(family)
    perturb(backbone)
    backbone.save_adapter(tmp_path / "adapter")
    skeleton = load_skeleton(family, path_of(family))
    put_adapter(skeleton, PIPELINES[family], NETWORKS[family], tmp_path / "adapter", "policy", "source")
    ours, theirs = (kohya_tensors(family, network, "policy") for network in (backbone.network, skeleton))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def of_another_kind(family, folder, **kind):
    """A LoRA as peft makes it with other settings than ours, saved by diffusers; and the network's answer with it."""
    backbone = load_fresh(family, None)
    config = LoraConfig(r=4, lora_alpha=4, target_modules=["to_q", "to_v"], **kind)
    backbone.network.add_adapter(config, adapter_name="default")
    generator = torch.Generator().manual_seed(5)
    for key, parameter in backbone.network.named_parameters():
        if "lora_B" in key:
            parameter.data.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
    part = NETWORKS[family]
    layers = {f"{part}_lora_layers": get_peft_model_state_dict(backbone.network, adapter_name="default")}
    metadata = {f"{part}_lora_adapter_metadata": config.to_dict()}
    type(backbone.pipeline).save_lora_weights(folder, **layers, **metadata)
    return backbone


def test_a_rank_stabilised_lora_keeps_its_strength(family, tmp_path):
    """Its factor is alpha / sqrt(rank)."""
    made = of_another_kind(family, tmp_path / "stable", use_rslora=True)
    network = load_skeleton(family, path_of(family))
    put_adapter(network, PIPELINES[family], NETWORKS[family], tmp_path / "stable", "policy", "source")
    write_kohya(tmp_path / "lora.safetensors", family, network, "policy", "mine")
    read = load_fresh(family, None)
    read.pipeline.load_lora_weights(tmp_path / "lora.safetensors")
    torch.testing.assert_close(answer(read, "reference"), answer(made, "reference"), rtol=1e-5, atol=3e-6)
    with safe_open(tmp_path / "lora.safetensors", "pt") as file:
        told = float(file.metadata()["ss_network_alpha"])
        alphas = {round(file.get_tensor(key).item(), 4) for key in file.keys() if key.endswith("alpha")}  # noqa: SIM118
    assert alphas <= {round(told, 4)}


def test_a_dora_is_refused(tmp_path):
    of_another_kind("sd", tmp_path / "dora", use_dora=True)
    network = load_skeleton("sd", path_of("sd"))
    with pytest.raises(ConfigError, match=r"source: .*dora is not a LoRA of this model: it is a DoRA or has biases"):
        put_adapter(network, PIPELINES["sd"], NETWORKS["sd"], tmp_path / "dora", "policy", "source")
