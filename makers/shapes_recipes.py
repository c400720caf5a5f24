"""How each model of the zoo is made: the commands, in order, and how long they take."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """One command.

    Attributes:
        module: `python -m MODULE`.
        options: as they stand on the command line; {build} is the folder that all is made in.
        makes: the file or folder in {build} that is there when the command is done.
        minutes: about, of one CPU thread; 0 where it was not measured.
    """

    module: str
    options: str
    makes: str
    minutes: int = 0

    def arguments(self, build: str) -> list[str]:
        """The options with the folder filled in."""
        return self.options.format(build=build).split()

    def command(self, build: str = "build") -> str:
        """As it is typed."""
        return " ".join(["python -m", self.module, *self.arguments(build)])


@dataclass(frozen=True)
class Recipe:
    """From nothing to a model with its preference set.

    Attributes:
        family: of diffalign's backbones.
        summary: one line for lists.
        steps: autoencoder, denoiser (in phases), preference set.
        card: options of the card's maker: how the model is measured.
        card_maker: the module that measures the model and writes its card.
    """

    family: str
    summary: str
    steps: tuple[Step, ...]
    card: str
    card_maker: str = "makers.shapes_card"

    @property
    def minutes(self) -> int:
        """Of one CPU thread, for the denoiser."""
        return sum(step.minutes for step in self.steps)


_VAE = Step("makers.shapes_vae", "--out {build}/shapes-vae --seed 0", "shapes-vae")
_SD = "--vae {build}/shapes-vae --out {build}/"
RECIPES = {
    "shapes-sd": Recipe(
        "sd",
        "captioned scenes of coloured shapes, 32x32 pixels; StableDiffusionPipeline, noise prediction",
        (
            _VAE,
            # colours and shapes
            Step("makers.shapes_sd", f"{_SD}sd-1 --seed 0", "sd-1", 50),
            # the layout is decided where there is almost no signal
            Step(
                "makers.shapes_sd",
                f"{_SD}sd-2 --start {{build}}/sd-1 --time-shift 4 --steps 1600 --stop 1600 --learning-rate 1e-3 "
                "--scenes 40000 --seed 1",
                "sd-2",
                16,
            ),
            # ... where plain noise errors teach little: weigh them as a v-prediction would
            Step(
                "makers.shapes_sd",
                f"{_SD}shapes-sd --start {{build}}/sd-2 --time-shift 2 --most-weight 50 --steps 1400 --stop 1000 "
                "--learning-rate 1.2e-3 --scenes 40000 --seed 2",
                "shapes-sd",
                10,
            ),
            # guidance 1: there the model also errs in colours and shapes
            Step(
                "makers.shapes_preferences",
                "--model {build}/shapes-sd --each 8 --guidance-scale 1 --out {build}/shapes-sd/preferences.safetensors",
                "shapes-sd/preferences.safetensors",
            ),
        ),
        "--guidance-scale 1",
    ),
    "shapes-sd3": Recipe(
        "sd3",
        "captioned scenes of coloured shapes, 32x32 pixels; StableDiffusion3Pipeline, linear flow",
        (
            _VAE,
            Step("makers.shapes_sd3", f"{_SD}shapes-sd3 --seed 0", "shapes-sd3", 20),
            Step(
                "makers.shapes_preferences",
                "--model {build}/shapes-sd3 --captions 1500 --out {build}/shapes-sd3/preferences.safetensors",
                "shapes-sd3/preferences.safetensors",
            ),
        ),
        "--guidance-scale 2",
    ),
}
