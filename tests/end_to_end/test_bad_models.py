"""Models that cannot be had, fit or are damaged: `train` and `generate` say which, and make nothing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffalign.zoo import locate
from tests.end_to_end.bad_input import refused, settings_file

Break = Callable[[Path], object]


def overwrite(path: Path, content: bytes) -> None:
    path.unlink()  # what is there is a link to the zoo's own file
    path.write_bytes(content)


def cut(path: Path) -> None:
    overwrite(path, path.read_bytes()[: path.stat().st_size // 2])


def pickle(path: Path) -> None:
    torch.save(load_file(path), path.with_suffix(".bin"))
    path.unlink()


def one_tensor_less(path: Path) -> None:
    tensors = load_file(path)
    path.unlink()
    save_file(dict(list(tensors.items())[1:]), path)


def other_shape(path: Path) -> None:
    tensors = load_file(path)
    path.unlink()
    save_file({name: tensor[..., :1].contiguous() for name, tensor in tensors.items()}, path)


WEIGHTS = "unet/diffusion_pytorch_model.safetensors"

# name, what is done to a copy of the zoo's model, what the message says
DAMAGES: list[tuple[str, Break, tuple[str, ...]]] = [
    ("no index", lambda model: (model / "model_index.json").unlink(), ("model_index.json",)),
    ("index that is no JSON", lambda model: overwrite(model / "model_index.json", b"{"), ("model_index.json",)),
    ("index that is a list", lambda model: overwrite(model / "model_index.json", b"[]"), ("names no pipeline class",)),
    (
        "index of nothing",
        lambda model: overwrite(model / "model_index.json", b"{}"),
        ("its model_index.json names no pipeline class",),
    ),
    ("weights cut off", lambda model: cut(model / WEIGHTS), (WEIGHTS, "is damaged or cut off")),
    ("weights of no bytes", lambda model: overwrite(model / WEIGHTS, b""), (WEIGHTS, "is damaged or cut off")),
    ("weights in a pickle alone", lambda model: pickle(model / WEIGHTS), (".safetensors",)),
    ("no weights", lambda model: (model / WEIGHTS).unlink(), (".safetensors",)),
    ("weights of other shapes", lambda model: other_shape(model / WEIGHTS), ("shape",)),
    (
        "weights that lack a layer",
        lambda model: one_tensor_less(model / WEIGHTS),
        ("the weights of unet lack", "damaged"),
    ),
    ("network without settings", lambda model: (model / "unet/config.json").unlink(), ("config.json",)),
    ("network's settings cut off", lambda model: cut(model / "unet/config.json"), ("config.json",)),
    ("no network", lambda model: shutil.rmtree(model / "unet"), ("it has no folder unet",)),
    ("no tokenizer", lambda model: shutil.rmtree(model / "tokenizer"), ("it has no folder tokenizer",)),
    ("tokenizer cut off", lambda model: cut(model / "tokenizer/tokenizer.json"), ("Expecting",)),
    (
        "tokenizer without words",
        lambda model: (model / "tokenizer/tokenizer.json").unlink(),
        ("tokenizer knows no words",),
    ),
    ("no text encoder", lambda model: shutil.rmtree(model / "text_encoder"), ("it has no folder text_encoder",)),
    ("text encoder cut off", lambda model: cut(model / "text_encoder/model.safetensors"), ("text_encoder/model.",)),
    ("no scheduler", lambda model: shutil.rmtree(model / "scheduler"), ("it has no folder scheduler",)),
    ("autoencoder cut off", lambda model: cut(model / "vae/diffusion_pytorch_model.safetensors"), ("vae/diffusion",)),
]


@pytest.mark.parametrize(("harm", "says"), [row[1:] for row in DAMAGES], ids=[row[0] for row in DAMAGES])
def test_damaged_model(tmp_path, harm, says):
    model = tmp_path / "model"
    shutil.copytree(locate("zoo://shapes-sd"), model, copy_function=os.link)
    harm(model)
    file = settings_file(tmp_path, {"model.path": str(model)})
    refused(tmp_path, "train", "-c", file, says=(f"model.path: cannot load '{model}'", *says))
    draw = ("generate", "-p", "a red circle", "-o", tmp_path / "out", "--model", model, "--family", "sd")
    refused(tmp_path, *draw, says=(f"--model: cannot load '{model}'", *says))


# name, settings, what the message says
SETTINGS: list[tuple[str, dict[str, object], tuple[str, ...]]] = [
    ("no such zoo model", {"model.path": "zoo://shapes-sd4"}, ("model.path: ", "did you mean zoo://shapes-sd?")),
    ("no such zoo file", {"data.path": "zoo://shapes-sd/pairs"}, ("data.path: ", "preferences, held_out, prompts")),
    ("no such folder", {"model.path": "/absent/model"}, ("model.path: ", "'/absent/model'", "no such folder")),
    ("no such hub model", {"model.path": "nobody/nothing"}, ("model.path: ", "'nobody/nothing'", "no such folder")),
    ("folder that is no model", {"model.path": "HOME"}, ("model.path: ", "model_index.json")),
    ("text file", {"model.path": "HOME/x.yaml"}, ("model.path: ", "x.yaml")),
    ("single file that is not there", {"model.path": "absent.safetensors"}, ("model.path: no such file",)),
    ("single file of something else", {"model.path": "HOME/y.safetensors"}, ("model.path: ", "y.safetensors")),
    ("path of 300 letters", {"model.path": "a" * 300}, ("File name too long",)),
    ("empty path", {"model.path": ""}, ("model.path: must be a path or a name, got ''",)),
    ("path with a NUL byte", {"model.path": "a\0b"}, ("model.path: must be text without NUL bytes",)),
    ("other family", {"model.family": "sdxl"}, ("model.path: ", "holds a StableDiffusionPipeline", "'sdxl'")),
    ("no such layers", {"model.lora.targets": ["to_qq"]}, ("model.lora.targets: no layer is named to_qq; there are",)),
    ("no layers at all", {"model.lora.targets": []}, ("model.lora.targets: must have at least 1, got 0",)),
    (
        "adapter beyond all memory",
        {"model.lora.rank": 10**12},
        ("model.lora.rank: no adapter of rank 1000000000000 can be made",),
    ),
    ("no CUDA", {"device": "cuda"}, ("device: 'cuda' cannot be used here",)),
    ("no MPS", {"device": "mps"}, ("device: 'mps' cannot be used here",)),
    ("no such device", {"device": "gpu"}, ("device: 'gpu' cannot be used here: must be cuda, mps or cpu",)),
    ("no such number of a device", {"device": "cpu:x"}, ("device: 'cpu:x' cannot be used here",)),
    ("two processes", {"training.processes": 2}, ("training.processes: the config asks for 2, this run has 1",)),
    ("resolution between", {"data.resolution": 33}, ("data.resolution: ", "33")),
    ("resolution of latents", {"data.resolution": 64}, ("data.resolution: ", "holds latents, not pictures")),
    (
        "more sampling steps than times",
        {"evaluation.sampler": {"name": "ddim", "steps": 1001}},
        ("evaluation.sampler.steps: ", "1001"),
    ),
    (
        "sequence length of another family",
        {"model.max_sequence_length": 8},
        ("model.max_sequence_length: is a setting",),
    ),
]


@pytest.mark.parametrize(("changes", "says"), [row[1:] for row in SETTINGS], ids=[row[0] for row in SETTINGS])
def test_settings_that_do_not_fit(tmp_path, changes, says):
    (tmp_path / "y.safetensors").write_bytes(b"something else")
    told = {
        path: value.replace("HOME", str(tmp_path)) if isinstance(value, str) else value
        for path, value in changes.items()
    }
    refused(tmp_path, "train", "-c", settings_file(tmp_path, told), says=says)


DRAW = ("generate", "-p", "a red circle")
ZOO = ("--model", "zoo://shapes-sd", "--steps", 1)

# name, arguments, what the message says
DRAWS: list[tuple[str, tuple[object, ...], tuple[str, ...]]] = [
    ("no model", (*DRAW, "-o", "out"), ("give either --run", "or --model")),
    ("two models", (*DRAW, "-o", "out", *ZOO, "--run", "x"), ("give either --run", "or --model")),
    ("no prompts", ("generate", "-o", "out", *ZOO), ("Missing option '--prompts'",)),
    ("no folder", (*DRAW, *ZOO), ("Missing option '--out'",)),
    ("empty prompt", ("generate", "-p", " ", "-o", "out", *ZOO), ("--prompts: empty",)),
    ("prompt that is no text", ("generate", "-p", "a\ud800", "-o", "out", *ZOO), ("--prompts: not UTF-8 text",)),
    (
        "prompts that are not there",
        ("generate", "-p", "no.txt", "-o", "out", *ZOO),
        ("no.txt: cannot be read: No such",),
    ),
    (
        "prompts that are a folder",
        ("generate", "-p", "dir.txt", "-o", "out", *ZOO),
        ("dir.txt: cannot be read: Is a dir",),
    ),
    ("prompts not in UTF-8", ("generate", "-p", "latin.txt", "-o", "out", *ZOO), ("latin.txt: not UTF-8 text",)),
    ("no line in the prompts", ("generate", "-p", "blank.txt", "-o", "out", *ZOO), ("blank.txt: no prompts in it",)),
    ("prompts that are no JSON", ("generate", "-p", "bad.jsonl", "-o", "out", *ZOO), ("bad.jsonl, line 1: not JSON",)),
    (
        "prompt that is a number",
        ("generate", "-p", "number.jsonl", "-o", "out", *ZOO),
        ("'prompt' must be text", "got 3"),
    ),
    (
        "no such zoo prompts",
        ("generate", "-p", "zoo://shapes-sd/all", "-o", "out", *ZOO),
        ("preferences, held_out, prompts",),
    ),
    ("zoo latents as prompts", ("generate", "-p", "zoo://shapes-sd/preferences", "-o", "out", *ZOO), ("not UTF-8",)),
    ("folder is a file", (*DRAW, *ZOO, "-o", "blank.txt"), ("--out: ", "blank.txt")),
    ("folder below a file", (*DRAW, *ZOO, "-o", "blank.txt/out"), ("--out: cannot make blank.txt/out",)),
    (
        "folder of somebody else",
        (*DRAW, *ZOO, "-o", "theirs"),
        (
            "--out: ",
            "lists something that generate did not draw",
        ),
    ),
    ("folder with a NUL byte", (*DRAW, *ZOO, "-o", "a\0b"), ("--out", "embedded null byte")),
    ("folder of 300 letters", (*DRAW, *ZOO, "-o", "a" * 300), ("File name too long",)),
    ("run of 300 letters", (*DRAW, "-o", "out", "--run", "a" * 300), ("File name too long",)),
    ("adapter of 300 letters", (*DRAW, "-o", "out", *ZOO, "--adapter", "a" * 300), ("File name too long",)),
    ("no family", (*DRAW, "-o", "out", "--model", "dir.txt"), ("--family: say which family dir.txt is of",)),
    (
        "no such family",
        (*DRAW, "-o", "out", "--model", "dir.txt", "--family", "sd1"),
        ("--family: must be one of sd,",),
    ),
    (
        "no such precision",
        (*DRAW, "-o", "out", *ZOO, "--precision", "fp23"),
        ("--precision: must be one of", "mean fp32?"),
    ),
    ("no such sampler", (*DRAW, "-o", "out", *ZOO, "--sampler", "euler"), ("--sampler: must be one of ddim",)),
    (
        "sampler of flows",
        (*DRAW, "-o", "out", *ZOO, "--sampler", "flow_euler"),
        ("--sampler: flow_euler needs a flow",),
    ),
    (
        "no steps",
        (*DRAW, "-o", "out", "--model", "zoo://shapes-sd", "--steps", 0),
        ("'--steps'", "greater than or equal to 1"),
    ),
    ("too many steps", (*DRAW, "-o", "out", *ZOO[:2], "--steps", 9999), ("--steps: ", "9999")),
    ("guidance below 0", (*DRAW, "-o", "out", *ZOO, "--guidance-scale", -1), ("'--guidance-scale'",)),
    (
        "guidance that is no number",
        (*DRAW, "-o", "out", *ZOO, "--guidance-scale", "nan"),
        ("--guidance-scale", "greater than or equal to 0"),
    ),
    ("resolution between", (*DRAW, "-o", "out", *ZOO, "--resolution", 33), ("--resolution: ", "33")),
    ("seed below 0", (*DRAW, "-o", "out", *ZOO, "--seed", -1), ("'--seed'", "greater than or equal to 0")),
    (
        "seed beyond 64 bits",
        (*DRAW, "-o", "out", *ZOO, "--seed", 2**64),
        ("'--seed'", "less than or equal to 9223372036854775807"),
    ),
    (
        "device that is absent",
        (*DRAW, "-o", "out", *ZOO, "--device", "cuda"),
        ("--device: 'cuda' cannot be used here",),
    ),
    (
        "no such adapter",
        (*DRAW, "-o", "out", *ZOO, "--adapter", "absent"),
        ("--adapter: no such file or folder: absent",),
    ),
    (
        "adapter that is no folder of one",
        (*DRAW, "-o", "out", *ZOO, "--adapter", "theirs"),
        ("--adapter: theirs is not",),
    ),
    ("adapter that is a text", (*DRAW, "-o", "out", *ZOO, "--adapter", "latin.txt"), ("is not a .safetensors file",)),
    ("no such run", (*DRAW, "-o", "out", "--run", "absent"), ("absent is not a run folder",)),
]


@pytest.mark.parametrize(("arguments", "says"), [row[1:] for row in DRAWS], ids=[row[0] for row in DRAWS])
def test_generate(tmp_path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    Path("dir.txt").mkdir()
    Path("theirs").mkdir()
    Path("theirs/metadata.jsonl").write_text('{"file_name": "holiday.png"}\n')
    Path("blank.txt").write_text("\n \n")
    Path("latin.txt").write_bytes("a café\n".encode("latin-1"))
    Path("bad.jsonl").write_text("a red circle\n")
    Path("number.jsonl").write_text('{"prompt": 3}\n')
    refused(tmp_path, *arguments, says=says)
