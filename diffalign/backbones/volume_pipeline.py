"""A diffusers pipeline around a flow over cubes: text or pictures to occupancy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from diffusers.loaders.lora_pipeline import SanaLoraLoaderMixin
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from diffalign.backbones.volume_autoencoder import SparseStructureAutoencoder
from diffalign.backbones.volume_network import SparseStructureFlowModel
from diffalign.backbones.volume_published import is_published, load_published
from diffalign.exceptions import ConfigError

_MARGIN = 1.2  # what is cut out around an object, for one times its size
_SEEN = 0.8  # opacity from which a pixel belongs to the object
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as DINOv2 takes pictures


@dataclass
class VolumeOutput(BaseOutput):
    """What the pipeline draws: occupancy [batch, 1, X, Y, Z] in [0, 1], or latents [batch, C, x, y, z]."""

    volumes: Tensor


class VolumePipeline(DiffusionPipeline, SanaLoraLoaderMixin):  # a mixin that loads LoRAs of a `transformer` and no more
    """TRELLIS' first stage, and small models like it. Axes are x, y, z, and z is up.

    Args:
        transformer: predicts the velocity noise - x0; None: it is not needed now.
        scheduler: its `shift` is TRELLIS' `rescale_t`.
        vae: None: the latent is occupancy itself, -1 for empty and +1 for filled.
        text_encoder, tokenizer: of a model that is told what to make in words.
        image_encoder: DINOv2 with registers, of a model that is shown it.
    """

    _optional_components: ClassVar[list[str]] = ["vae", "text_encoder", "tokenizer", "image_encoder"]
    model_cpu_offload_seq = "text_encoder->image_encoder->transformer->vae"

    def __init__(
        self,
        transformer: SparseStructureFlowModel | None,
        scheduler: FlowMatchEulerDiscreteScheduler,
        vae: SparseStructureAutoencoder | None = None,
        text_encoder: Any = None,
        tokenizer: Any = None,
        image_encoder: Any = None,
    ) -> None:
        super().__init__()
        self.register_modules(
            transformer=transformer,
            scheduler=scheduler,
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            image_encoder=image_encoder,
        )

    @classmethod
    def load_config(cls, source: Any, **options: Any) -> Any:
        """The content of model_index.json; of TRELLIS' own layout just the class."""
        return {"_class_name": cls.__name__} if is_published(str(source)) else super().load_config(source, **options)

    @classmethod
    def from_pretrained(cls, source: Any, **options: Any) -> VolumePipeline:
        """Load a folder or hub id, in diffusers' layout or in TRELLIS'.

        Args:
            options: diffusers'; of TRELLIS' layout `dtype`, a dtype or one for each component, and components by name.

        Raises:
            ConfigError: it has TRELLIS' layout, and a part is missing, or it is to be quantised.
        """
        if not is_published(str(source)):
            return super().from_pretrained(source, **options)
        if options.get("quantization_config") is not None:
            raise ConfigError(f"model.quantise: needs a model in diffusers' format, and {source} is none; leave it out")
        told = options.get("dtype") or torch.float32
        dtypes = told if isinstance(told, Mapping) else {"default": told}
        default = dtypes.get("default", torch.float32)
        wanted = "transformer" not in options
        network = dtypes.get("transformer", default) if wanted else None
        parts = load_published(str(source), dtype=default, network_dtype=network)
        return cls(**parts if wanted else parts | {"transformer": options["transformer"]})

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str],
        num_inference_steps: int = 25,
        guidance_scale: float = 8.5,
        generator: torch.Generator | list[torch.Generator] | None = None,
        output_type: str = "occupancy",
    ) -> VolumeOutput:
        """Draw one volume for each prompt, by Euler steps.

        Args:
            prompt: texts; of a model that is shown pictures, paths of picture files.
            guidance_scale: diffusers' scale s, u + s (c - u); TRELLIS' `cfg_strength` w is s - 1, (1 + w) c - w u.
            output_type: "occupancy" or "latent".
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        given, empty = self.encode_prompt(prompts), self.encode_prompt([""])
        config = self.transformer.config
        shape = (len(prompts), config.in_channels, *[config.resolution] * 3)
        device = self.transformer.device
        x_t = randn_tensor(shape, generator=generator, device=device, dtype=torch.float32)
        even = [1 - step / num_inference_steps for step in range(num_inference_steps)]
        self.scheduler.set_timesteps(sigmas=even, device=device)
        empty = empty.expand(len(prompts), *empty.shape[1:])
        for time in self.progress_bar(self.scheduler.timesteps):
            times = time.expand(len(prompts))
            velocity = self.transformer(x_t, times, given)
            if guidance_scale != 1:
                without = self.transformer(x_t, times, empty)
                velocity = without + guidance_scale * (velocity - without)
            x_t = self.scheduler.step(velocity, time, x_t, return_dict=False)[0]
        return VolumeOutput(x_t if output_type == "latent" else self.occupancy(x_t))

    def occupancy(self, x0: Float[Tensor, "batch channels x y z"]) -> Float[Tensor, "batch 1 X Y Z"]:
        """How far each cell is filled, in [0, 1]; above 0.5 it is."""
        return (x0.float() / 2 + 0.5).clamp(0, 1) if self.vae is None else self.vae.decode(x0)

    @torch.no_grad()
    def encode_prompt(self, prompts: Sequence[str]) -> Float[Tensor, "prompts tokens width"]:
        """The condition's tokens: of texts, or of the picture files that the prompts are paths of.

        The empty prompt is what guidance compares with: the empty text like any other, and zeros for a picture.

        Raises:
            ConfigError: there is no such picture.
        """
        if self.image_encoder is not None:
            return self._encode_pictures(prompts)
        tokens = self.tokenizer(
            list(prompts),
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        return self.text_encoder(tokens.input_ids.to(self.text_encoder.device)).last_hidden_state

    def _encode_pictures(self, prompts: Sequence[str]) -> Tensor:
        encoder = self.image_encoder
        side = int(encoder.config.image_size)
        pixels = torch.zeros(len(prompts), 3, side, side)
        for row, path in zip(pixels, prompts, strict=True):
            if path:
                row.copy_(picture_pixels(_open(path), side))
        mean, std = (torch.tensor(each).reshape(3, 1, 1) for each in (_MEAN, _STD))
        seen = encoder(((pixels - mean) / std).to(encoder.device, encoder.dtype), output_hidden_states=True)
        states = seen.hidden_states[-1]  # before the encoder's own last norm
        states = F.layer_norm(states.float(), states.shape[-1:]).to(states.dtype)
        shown = torch.tensor([bool(path) for path in prompts], device=states.device)
        return states * shown[:, None, None]


def picture_pixels(picture: Image.Image, side: int) -> Float[Tensor, "3 side side"]:
    """A picture as TRELLIS shows it to its encoder, in [0, 1].

    One with transparency is cut out around its object, which fills five sixths, on black; another one is taken whole.

    Raises:
        ConfigError: it is wholly transparent.
    """
    if "A" in picture.getbands() and np.asarray(picture.getchannel("A")).min() < 255:
        picture = _cut_out(picture.convert("RGBA")).resize((side, side), Image.Resampling.LANCZOS)
        values = np.asarray(picture, np.float32) / 255
        values = np.floor(values[..., :3] * values[..., 3:] * 255) / 255
    else:
        resized = picture.convert("RGB").resize((side, side), Image.Resampling.LANCZOS)
        values = np.asarray(resized, np.float32) / 255
    return torch.from_numpy(values).permute(2, 0, 1)


def _cut_out(picture: Image.Image) -> Image.Image:
    rows, columns = np.nonzero(np.asarray(picture)[..., 3] > _SEEN * 255)
    if not len(rows):
        raise ConfigError("a condition's picture is wholly transparent; give one that shows the object")
    middle = (columns.min() + columns.max()) / 2, (rows.min() + rows.max()) / 2
    half = max(1, int(max(np.ptp(columns), np.ptp(rows)) * _MARGIN) // 2)
    left, top = (int(each - half) for each in middle)
    return picture.crop((left, top, left + 2 * half, top + 2 * half))


def _open(path: str) -> Image.Image:
    try:
        with Image.open(path) as picture:
            picture.load()
            return picture
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"prompt {path!r}: this model is shown pictures, so a prompt is the path of a picture file, and this one "
            f"cannot be read: {error}"
        ) from None
