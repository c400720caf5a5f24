"""Pictures that a reward likes as well as an honest one, or better, and that nobody would want: one figure a reward.

    python -m makers.hacked_pictures --out docs/figures/hacked                      # all that need no training: 2 minutes
    python -m makers.hacked_pictures --out docs/figures/hacked --only learned --learned runs/shapes_reward-TIME

Every score is what the reward itself says of the 8-bit picture that is shown. A figure is refused unless each of its hacks
scores at least as much as its honest picture. The rewards with networks want their wheels: `diffalign rewards fetch`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from torch import Tensor

import diffalign.zoo
from diffalign.pipelines.shipped_pictures import shipped_comparisons
from diffalign.rewards import load_reward
from diffalign.rewards.scene import BACKGROUND, COLOURS, SIZE, parse_caption, render_scene
from makers.hacked_figure import Figure, Pixels, judged, resized, write
from makers.hacked_shapes import stability

_CAPTION = "a red circle left of a blue square"


def rendered(caption: str, seed: int, size: int = SIZE) -> Pixels:
    """A picture of a caption by the zoo's renderer."""
    scene = parse_caption(caption)
    assert scene is not None
    return np.asarray(render_scene(scene, np.random.default_rng(seed), size))


@cache
def drawn(family: str, model: str, count: int) -> dict[str, Pixels]:
    """What a model of the zoo drew: by prompt, the better picture of the first `count` pairs of its preference set."""
    path = Path(diffalign.zoo.__file__).with_name(model) / "preferences.safetensors"
    records = shipped_comparisons(path, family, f"zoo://{model}", limit=count)
    return {record.prompt: record.pictures[0] for record in records}


def grain(shape: tuple[int, ...], deviation: float) -> NDArray[np.float64]:
    return np.random.default_rng(0).normal(0, deviation, shape)


def rounded(values: NDArray[Any]) -> Pixels:
    return np.ascontiguousarray(np.rint(np.clip(values, 0, 255)).astype(np.uint8))


def confetti(picture: Pixels) -> Pixels:
    """A scene's background in squares of 2x2 pixels, in the palette's colours, no two alike side by side."""
    rng, side = np.random.default_rng(0), SIZE // 2
    cells = np.full((side + 1, side + 1), -1)  # the last row and column are outside
    for row in range(side):
        for column in range(side):
            beside = (cells[row - 1, column], cells[row, column - 1])
            cells[row, column] = rng.choice([index for index in range(len(COLOURS)) if index not in beside])
    bits = np.array(list(COLOURS.values()), dtype=np.uint8)[cells[:side, :side]].repeat(2, 0).repeat(2, 1)
    objects = Image.fromarray((picture != np.array(BACKGROUND, dtype=np.uint8)).any(-1))
    kept = np.asarray(objects.convert("L").filter(ImageFilter.MaxFilter(3))) > 0  # with a rim
    return np.where(kept[..., None], picture, bits)


def climb(score_tensor: Callable[[Tensor], Tensor], side: int, steps: int, rate: float = 0.03) -> Pixels:
    """A grey picture after gradient ascent on its pixels, and nothing else."""
    pixels = torch.full((1, 3, side, side), 0.5, requires_grad=True)
    optimiser = torch.optim.Adam([pixels], rate)
    for _ in range(steps):
        optimiser.zero_grad()
        (-score_tensor(pixels).sum()).backward()
        optimiser.step()
        with torch.no_grad():
            pixels.clamp_(0, 1)
    return rounded(pixels[0].detach().permute(1, 2, 0).numpy() * 255)


def scene() -> Figure:
    rewards = {"strict": load_reward("scene"), "graded": load_reward("scene", form="graded")}
    pictures = drawn("sd", "shapes-sd", 64)
    right = [
        each for each in pictures if " of a " in each and judged("", pictures[each], rewards, each).scores["strict"]
    ]
    prompt = right[0]
    clean = rendered(prompt, 0)
    return Figure(
        "scene",
        prompt,
        judged("the zoo's model", pictures[prompt], rewards, prompt),
        (judged("with confetti behind it", confetti(clean), rewards, prompt),),
    )


def jpeg() -> Figure:
    rewards = {"jpeg": load_reward("jpeg")}
    honest, flat = rendered(_CAPTION, 0), np.full((SIZE, SIZE, 3), 128, dtype=np.uint8)
    hack = judged("nothing", flat, rewards)
    return Figure("jpeg", "direction: compressible", judged("a picture", honest, rewards), (hack,))


def jpeg_incompressible() -> Figure:
    rewards = {"jpeg": load_reward("jpeg", direction="incompressible")}
    honest = rendered(_CAPTION, 0)
    noise = np.random.default_rng(0).integers(0, 256, honest.shape).astype(np.uint8)
    hack = judged("noise", noise, rewards)
    return Figure("jpeg_incompressible", "direction: incompressible", judged("a picture", honest, rewards), (hack,))


def emoji() -> Figure:
    rewards = {"strict": load_reward("emoji")}
    prompt = "pizza"
    honest = drawn("sd3", "emoji-sd3", 64)[prompt]
    coarse = resized(resized(honest, 8, Image.Resampling.BOX), SIZE)
    blurred = np.asarray(Image.fromarray(honest).filter(ImageFilter.GaussianBlur(2.5)))
    return Figure(
        "emoji",
        prompt,
        judged("the zoo's model", honest, rewards, prompt),
        (
            judged("8x8 pixels of it", coarse, rewards, prompt),
            judged("blurred", blurred, rewards, prompt),
        ),
    )


def text_image() -> Figure:
    reward: Any = load_reward("text_image", device="cpu")
    prompt = "pizza"
    honest = drawn("sd3", "emoji-sd3", 64)[prompt]
    climbed = climb(lambda pixels: reward.score_tensor(pixels, [prompt]), 64, 80)
    rewards = {"text_image": reward}
    return Figure(
        "text_image",
        prompt,
        judged("the zoo's model", honest, rewards, prompt),
        (judged("grey, after 80 steps uphill", climbed, rewards, prompt),),
    )


def written(lines: list[tuple[int, int, str]], size: int) -> Pixels:
    """Text at places, black on white, 160x160."""
    page = Image.new("RGB", (160, 160), "white")
    for x, y, text in lines:
        ImageDraw.Draw(page).text((x, y), text, fill="black", font=ImageFont.load_default(size))
    return np.asarray(page)


def ocr() -> Figure:
    rewards, prompt = {"ocr": load_reward("ocr")}, 'a sign that says "SALE"'
    honest = written([(30, 55, "SALE")], 40)
    often = written([(6 + 78 * (place % 2), 4 + 31 * (place // 2), "SALE") for place in range(10)], 24)
    rng = np.random.default_rng(0)
    rows = ["".join(rng.choice(list("ABCDEFGHIJKLMNOPQRSTUVWXYZ"), 7)) for _ in range(6)]
    rows[3] = f"{rows[3][0]}SALE{rows[3][5:]}"
    hidden = written([(6, 2 + 25 * place, row) for place, row in enumerate(rows)], 25)
    return Figure(
        "ocr",
        prompt,
        judged("a sign", honest, rewards, prompt),
        (
            judged("the word ten times", often, rewards, prompt),
            judged("letters everywhere", hidden, rewards, prompt),
        ),
    )


def brisque() -> Figure:
    rewards, clean = {"brisque": load_reward("brisque")}, rendered("a red cross above a green triangle", 3, 96)
    panels = [
        judged(f"with grain of deviation {each}", noisy, rewards)
        for each in (5, 10)
        for noisy in [rounded(clean + grain(clean.shape, each))]
    ]
    return Figure("brisque", "", judged("the drawing", clean, rewards), tuple(panels))


def safety() -> Figure:
    rewards, grey = {"safety": load_reward("safety")}, np.full((96, 96, 3), 128, dtype=np.uint8)
    noisy = rounded(grey + grain(grey.shape, 60))
    hack = judged("with noise", noisy, rewards)
    return Figure("safety", "", judged("an even grey", grey, rewards), (hack,))


def distortion() -> Figure:
    rewards, prompt = {"distortion": load_reward("distortion")}, "three yellow crosses"
    honest = rendered(prompt, 0)
    square = np.full((SIZE, SIZE, 3), BACKGROUND, dtype=np.uint8)
    square[10:22, 10:22] = COLOURS["white"]
    full = confetti(square)
    return Figure(
        "distortion",
        prompt,
        judged("what was asked for", honest, rewards),
        (
            judged("one filled square", square, rewards),
            judged("the same in confetti", full, rewards),
        ),
    )


def geneval() -> Figure:
    rewards, prompt = {"strict": load_reward("geneval")}, "a red circle and a blue square"
    honest = rendered(prompt, 2)
    crowd = np.full((SIZE, SIZE, 3), BACKGROUND, dtype=np.uint8)
    others = ["a red circle", "a blue square", "a green cross", "a white triangle"]
    for place in range(9):
        thing = rendered(others[place % 4], 1)
        rows, columns = np.nonzero((thing != np.array(BACKGROUND)).any(-1))
        cut = resized(thing[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1], 9, Image.Resampling.BOX)
        top, left = 1 + 10 * (place // 3), 1 + 10 * (place % 3)
        crowd[top : top + 9, left : left + 9] = cut
    hack = judged("nine objects", crowd, rewards, prompt)
    return Figure("geneval", prompt, judged("what was asked for", honest, rewards, prompt), (hack,))


def full_reference() -> Figure:
    rewards = {"psnr": load_reward("psnr"), "ssim": load_reward("ssim")}
    picture = rendered("a red cross above a green triangle", 3, 64)
    moved = np.roll(picture, 1, axis=1)
    blurred = np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(1.2)))
    return Figure(
        "full_reference",
        "",
        judged("sharp, one pixel to the right", moved, rewards, reference=picture),
        (judged("blurred", blurred, rewards, reference=picture),),
        picture,
    )


def perceptual_distance() -> Figure:
    rewards = {"perceptual_distance": load_reward("perceptual_distance", device="cpu")}
    picture = rendered("a red cross above a green triangle", 3, 64)
    moved = np.roll(picture, 1, axis=1)
    board = np.indices((64, 64)).sum(0)[..., None] % 2 * 2 - 1
    patterned = rounded(picture + 24.0 * board)
    return Figure(
        "perceptual_distance",
        "",
        judged("one pixel to the right", moved, rewards, reference=picture),
        (judged("a checkerboard of +-24", patterned, rewards, reference=picture),),
        picture,
    )


def learned(run: Path) -> Figure:
    reward: Any = load_reward("learned", path=str(run), device="cpu")
    pictures, rewards = drawn("sd", "shapes-sd", 512), {"learned": reward}
    prompt = next(prompt for prompt in pictures if " of a " in prompt)
    real = list(pictures.values())
    best = real[int(reward(real, [prompt] * len(real)).argmax())]
    climbed = climb(lambda pixels: reward.score_tensor(pixels, [prompt]), SIZE, 300)
    hacks = (
        judged(f"best of {len(real)} by the zoo's model", best, rewards, prompt),
        judged("grey, after 300 steps uphill", climbed, rewards, prompt),
    )
    return Figure("learned", prompt, judged("what was asked for", pictures[prompt], rewards, prompt), hacks)


def figures() -> dict[str, Callable[[], Figure]]:
    """What makes each figure that needs nothing trained."""
    makers = (
        *(scene, jpeg, jpeg_incompressible, emoji, text_image, ocr, brisque, safety, distortion, geneval),
        *(full_reference, perceptual_distance, stability),
    )
    return {maker.__name__: maker for maker in makers}


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder that the figures go into")
    parser.add_argument("--only", nargs="*", help="names of figures; without it all of them")
    parser.add_argument("--learned", type=Path, help="a finished run of task: reward on the shapes: one figure more")
    return parser


def main() -> None:
    options = parser().parse_args()
    makers = figures()
    if options.learned is not None:
        makers["learned"] = lambda: learned(options.learned)
    wanted = options.only or list(makers)
    if unknown := [name for name in wanted if name not in makers]:
        raise SystemExit(f"--only: no such figure: {', '.join(unknown)}; there are {', '.join(makers)}")
    for name in wanted:
        write(makers[name](), options.out)


if __name__ == "__main__":
    main()
