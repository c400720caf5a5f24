"""TRELLIS' first stage from the layout that it is published in: pipeline.json, and ckpts/*.json beside *.safetensors.

The second stage's parts are left where they are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from huggingface_hub import hf_hub_download
from safetensors.torch import load_file
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer, Dinov2WithRegistersModel

from diffalign.backbones.volume_autoencoder import SparseStructureAutoencoder
from diffalign.backbones.volume_network import SparseStructureFlowModel
from diffalign.exceptions import ConfigError

_INDEX = "pipeline.json"
# torch.hub's names of the published image encoders, as transformers has them
_IMAGE_ENCODERS = {
    f"dinov2_vit{letter}14_reg": f"facebook/dinov2-with-registers-{size}"
    for letter, size in (("s", "small"), ("b", "base"), ("l", "large"), ("g", "giant"))
}


def is_published(source: str) -> bool:
    """Whether a folder has TRELLIS' layout; of a hub id, whether its name is one of TRELLIS'."""
    folder = Path(source)
    if folder.is_dir():
        return (folder / _INDEX).is_file() and not (folder / "model_index.json").is_file()
    return source.rsplit("/", 1)[-1].startswith("TRELLIS-")


def load_published(source: str, *, dtype: torch.dtype, network_dtype: torch.dtype | None) -> dict[str, Any]:
    """The components of `VolumePipeline`.

    The times' rescaling comes from the file's sampler; its number of steps, guidance and guidance interval are the caller's
    business. The encoder of occupancy, which the pipeline's file does not name, is taken where it lies beside the decoder.

    Args:
        source: a folder or hub id.
        dtype: of all parts but the transformer.
        network_dtype: of the transformer; None: leave it out.

    Raises:
        ConfigError: a part is missing or of another kind.
    """
    told = _read(source, _INDEX).get("args", {})
    models = told.get("models", {})
    absent = [name for name in ("sparse_structure_flow_model", "sparse_structure_decoder") if name not in models]
    if absent:
        raise ConfigError(
            f"model.path: {source}: its {_INDEX} names no {' and no '.join(absent)}; it is no TRELLIS model"
        )
    transformer = None
    if network_dtype is not None:
        flow = models["sparse_structure_flow_model"]
        transformer = SparseStructureFlowModel(**_settings(source, flow, "SparseStructureFlowModel"))
        _fill(transformer, {"": _weights(source, flow)}, flow)
        nn.Module.to(transformer, network_dtype)  # diffusers' own `to` warns
    sampling = told.get("sparse_structure_sampler", {}).get("params", {})
    vae = _autoencoder(source, models["sparse_structure_decoder"])
    return {
        "transformer": transformer,
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=float(sampling.get("rescale_t", 1.0))),
        "vae": nn.Module.to(vae, dtype),
        **_condition_parts(source, told, dtype),
    }


def _autoencoder(source: str, decoder: str) -> SparseStructureAutoencoder:
    encoder = decoder.replace("ss_dec_", "ss_enc_")
    has_encoder = encoder != decoder and (Path(source) / f"{encoder}.safetensors").is_file()
    made = SparseStructureAutoencoder(
        decoder_settings=_settings(source, decoder, "SparseStructureDecoder"),
        encoder_settings=_settings(source, encoder, "SparseStructureEncoder") if has_encoder else None,
    )
    weights = {"decoder.": _weights(source, decoder)}
    if has_encoder:
        weights["encoder."] = _weights(source, encoder)
    _fill(made, weights, decoder)
    return made


def _condition_parts(source: str, told: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    text, picture = told.get("text_cond_model"), told.get("image_cond_model")
    if text:
        return {
            "text_encoder": CLIPTextModel.from_pretrained(text, dtype=dtype, use_safetensors=True),
            "tokenizer": CLIPTokenizer.from_pretrained(text),
        }
    if picture:
        name = _IMAGE_ENCODERS.get(picture, picture)
        return {"image_encoder": Dinov2WithRegistersModel.from_pretrained(name, dtype=dtype, use_safetensors=True)}
    raise ConfigError(f"model.path: {source}: its {_INDEX} names neither text_cond_model nor image_cond_model")


def _settings(source: str, name: str, kind: str) -> dict[str, Any]:
    content = _read(source, f"{name}.json")
    if content.get("name") not in (kind, f"Elastic{kind}"):
        raise ConfigError(f"model.path: {source}: {name}.json is of a {content.get('name')}, not of a {kind}")
    return content["args"]


def _fill(module: nn.Module, weights: Mapping[str, Mapping[str, torch.Tensor]], name: str) -> None:
    """Load tensors under their prefixes; every name must fit."""
    state = {f"{prefix}{key}": tensor for prefix, tensors in weights.items() for key, tensor in tensors.items()}
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        lines = " ".join(line.strip() for line in str(error).splitlines()[1:3])
        raise ConfigError(f"model.path: {name}.safetensors does not fit {name}.json: {lines:.300}") from None


def _read(source: str, name: str) -> dict[str, Any]:
    content = json.loads(_file(source, name).read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ConfigError(f"model.path: {source}/{name} is no table of settings")
    return content


def _weights(source: str, name: str) -> dict[str, torch.Tensor]:
    return load_file(_file(source, f"{name}.safetensors"))


def _file(source: str, name: str) -> Path:
    """A file of the model; a name that is not in it may be that of a file of another hub repository."""
    folder = Path(source)
    if folder.is_dir() and (folder / name).is_file():
        return folder / name
    owner, *rest = name.split("/")
    if owner != "ckpts" and len(rest) > 1:  # OWNER/MODEL/ckpts/...
        return Path(hf_hub_download(f"{owner}/{rest[0]}", "/".join(rest[1:])))
    if folder.is_dir():
        raise ConfigError(f"model.path: {source} has no file {name}; copy the model again, whole")
    return Path(hf_hub_download(source, name))
