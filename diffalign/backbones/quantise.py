"""A frozen network in 8 or 4 bit, by bitsandbytes through diffusers; a LoRA on it is QLoRA (Dettmers et al. 2023)."""

from __future__ import annotations

import importlib.util
from typing import Any, Literal

import torch
from diffusers import BitsAndBytesConfig, PipelineQuantizationConfig

from diffalign.exceptions import ConfigError, MissingExtraError

Bits = Literal["8bit", "4bit"]


def check_quantisation(bits: Bits, device: torch.device | str) -> None:
    """Whether a network can be quantised here.

    Raises:
        MissingExtraError: bitsandbytes is not installed.
        ConfigError: the device is not a CUDA one.
    """
    check_bitsandbytes(f"model.quantise: {bits}")
    if torch.device(device).type != "cuda":
        raise ConfigError(
            f"model.quantise: {bits} needs a CUDA device, got {torch.device(device).type}; leave it out, or train where "
            "there is one"
        )


def check_bitsandbytes(setting: str) -> None:
    """Whether bitsandbytes is there for what `setting` asks.

    Raises:
        MissingExtraError: it is not installed.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise MissingExtraError(
            f"{setting} needs 'bitsandbytes' and a CUDA device; install it with: pip install 'diffalign[eightbit]', or "
            "leave it out"
        )


def quantisation_of(network: str, bits: Bits, dtype: torch.dtype) -> Any:
    """What diffusers is told: the pipeline's part `network` alone, in "nf4" where 4 bit, computed in `dtype`.

    Double quantisation is on: it saves 0.4 bit per weight at no loss that the paper could measure.
    """
    if bits == "8bit":
        config = BitsAndBytesConfig(load_in_8bit=True)
    else:
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    return PipelineQuantizationConfig(quant_mapping={network: config})
