"""What can be wrong with a config or with --set: said before a model is looked for, and nothing is made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.bad_input import call, refused, settings_file

HUGE = int("1" + "0" * 400)

# name, dotted path, value, what the message says
VALUES: list[tuple[str, str, Any, tuple[str, ...]]] = [
    ("unknown key", "objective.betta", 1.0, ("objective.betta: unknown key; did you mean 'beta'?",)),
    ("unknown section", "optimiser", {"lr": 1.0}, ("optimiser: unknown key; did you mean 'optimizer'?",)),
    ("key of another tool", "training.lr", 1e-4, ("training.lr: unknown key; known keys: steps, groups",)),
    ("text for a number", "optimizer.learning_rate", "fast", ("optimizer.learning_rate: must be", "got 'fast'")),
    ("text for a whole number", "training.steps", "many", ("training.steps: must be", "integer", "got 'many'")),
    ("fraction for a whole number", "training.steps", 2.5, ("training.steps: must be", "got 2.5")),
    ("true for a number", "training.groups", True, ("training.groups: must be", "got 'true'")),
    ("number for a switch", "training.two_pass", 7, ("training.two_pass: must be", "boolean", "got 7")),
    ("number for a section", "optimizer", 1e-4, ("optimizer: must be a section of keys, got 0.0001", "learning_rate")),
    ("list for a section", "training", [1, 2], ("training: must be a section of keys, got [1, 2]",)),
    ("section for a number", "training.steps", {"of": 3}, ("training.steps: must be", "got {'of': 3}")),
    ("text for a list", "model.lora.targets", "to_q", ("model.lora.targets: must be a list, got 'to_q'",)),
    ("one number for two", "optimizer.betas", [0.9], ("optimizer.betas.1: required, but missing",)),
    ("three numbers for two", "optimizer.betas", [0.9, 0.9, 0.9], ("optimizer.betas: must have at most 2, got 3",)),
    ("half a character", "data.path", "pairs\ud800", ("data.path: must be text without NUL bytes and lone",)),
    ("nothing where something is needed", "training.steps", None, ("training.steps: must be", "got None")),
    ("nothing for a section", "model", None, ("model: must be a section of keys, got None",)),
    ("below 0", "optimizer.learning_rate", -1e-4, ("optimizer.learning_rate: must be > 0, got -0.0001",)),
    ("no groups", "training.groups", 0, ("training.groups: must be > 0, got 0",)),
    ("share above 1", "data.empty_prompt_share", 1.5, ("data.empty_prompt_share: must be <= 1, got 1.5",)),
    ("not a number", "optimizer.learning_rate", float("nan"), ("optimizer.learning_rate: must be", "finite", "nan")),
    ("infinite", "objective.beta", float("inf"), ("objective.beta: must be", "finite", "inf")),
    ("seed beyond 64 bits", "seed", 2**64, ("seed: must be from -2^63 to 2^63, got a number of 65 bits",)),
    (
        "number of 400 digits",
        "training.steps",
        HUGE,
        ("training.steps: must be from -2^63 to 2^63, got a number of 1329 bits",),
    ),
    ("negative number of 400 digits", "optimizer.weight_decay", -HUGE, ("optimizer.weight_decay: must be",)),
    ("no such objective", "objective", {"name": "dpo"}, ("objective.name: must be one of", "got 'dpo'")),
    ("misspelt objective", "objective.name", "difusion_dpo", ("did you mean 'diffusion_dpo'?",)),
    ("objective without a name", "objective", {"beta": 5.0}, ("objective.name: required, but missing; one of",)),
    ("objective of another loop", "objective", {"name": "flow_grpo"}, ("objective.name: 'flow_grpo' learns from",)),
    ("no such family", "model.family", "sd15", ("model.family: must be 'sd'", "got 'sd15'")),
    (
        "no such sampler",
        "evaluation.sampler",
        {"name": "euler"},
        ("evaluation.sampler.name: must be one of", "'euler'"),
    ),
    ("no such reward", "evaluation.rewards", [{"name": "jpg"}], ("evaluation.rewards.0.name", "did you mean 'jpeg'?")),
    ("no such times", "time", {"sampling": "normal"}, ("time.sampling: must be one of", "'logit_normal'?")),
    (
        "no such precision",
        "model.precision",
        "fp23",
        ("model.precision: must be", "got 'fp23'", "did you mean 'fp32'?"),
    ),
    ("no such kind of data", "data.kind", "triples", ("data.kind: must be 'pairs', 'groups'", "got 'triples'")),
    ("no such tracker", "log.trackers", ["mlflow"], ("log.trackers.0: must be 'tensorboard'", "got 'mlflow'")),
    ("no such action", "health.saturation", "halt", ("health.saturation: must be 'off', 'warn' or 'stop'",)),
    ("name that is no file name", "name", "a/b", ("name: must match", "got 'a/b'")),
    ("name of 300 letters", "name", "a" * 300, ("name: must match", "{0,99}", "got 'aaa")),
    (
        "warm-up as long as the run",
        "optimizer.warmup_steps",
        4,
        ("optimizer.warmup_steps: must be < training.steps (4)",),
    ),
    (
        "flow method on a diffusion model",
        "objective",
        {"name": "flow_dpo"},
        ("objective.name: 'flow_dpo' needs a flow",),
    ),
    ("flow sampler on a diffusion model", "evaluation.sampler", {"name": "flow_euler"}, ("evaluation.sampler.name:",)),
    ("samples of no prompts", "samples.every", 2, ("samples.every: needs evaluation.prompts",)),
    (
        "trained reward that is not scored",
        "evaluation.trained_reward",
        "scene",
        ("evaluation.trained_reward: 'scene'",),
    ),
    ("reward twice", "evaluation.rewards", [{"name": "jpeg"}] * 2, ("evaluation.rewards: each reward may stand",)),
    ("columns of another kind", "data.columns", {"items": "pictures"}, ("data.columns.items: is no column of",)),
    ("column that nobody has", "data.columns", {"captoin": "x"}, ("data.columns.captoin: must be 'prompt', 'chosen'",)),
    ("range upside down", "data.reward_range", [1.0, 0.0], ("data.reward_range: must be [low, high]",)),
]


@pytest.mark.parametrize(("path", "value", "says"), [row[1:] for row in VALUES], ids=[row[0] for row in VALUES])
@pytest.mark.parametrize("command", ["check", "train"])
def test_value(tmp_path, command, path, value, says):
    file = settings_file(tmp_path, {path: value})
    refused(tmp_path, command, "-c", file, says=(*says, f" in {file}\n"))


# name, content of the file, what the message says
TEXTS: list[tuple[str, bytes, tuple[str, ...]]] = [
    ("empty", b"", ("is empty; a config has sections such as 'model:'",)),
    ("comments alone", b"# later\n", ("is empty; a config has sections",)),
    ("list at the top", b"- model\n- data\n", ("holds a list; a config has sections",)),
    ("one word", b"model\n", ("holds a str; a config has sections",)),
    ("tabs", b"model:\n\tfamily: sd\n", ("not valid YAML", "line 2")),
    ("bracket left open", b"model: {family: sd\ndata: 3\n", ("not valid YAML", "line 2")),
    ("key twice", b"seed: 1\nname: x\nseed: 2\n", ("not valid YAML", "'seed' stands twice", "line 3")),
    ("python object", b"model: !!python/object/apply:os.system [touch mark]\n", ("not valid YAML", "python/object")),
    ("two documents", b"seed: 1\n---\nseed: 2\n", ("not valid YAML", "single document")),
    ("not UTF-8", "name: café\n".encode("latin-1"), ("not UTF-8 text",)),
    ("binary", bytes(range(256)) * 4, ("not UTF-8 text",)),
    ("NUL bytes", b"seed: \0\0\n", ("not valid YAML",)),
    ("alias of itself", b"model: &a [*a]\n", ("a YAML alias refers to itself",)),
    (
        "aliases that grow",
        b"a0: &a0 [x, x]\n" + b"".join(b"a%d: &a%d [*a%d, *a%d]\n" % (n, n, n - 1, n - 1) for n in range(1, 40)),
        ("its aliases stand for more than 100000 values",),
    ),
    ("nested 5000 deep", b"a: " + b"[" * 5000 + b"]" * 5000, ("nested too deeply",)),
    ("key that is a list", b"? [a, b]\n: c\n", ("not valid YAML",)),
    ("key that is a number", b"1: 2\n", ("1: unknown key",)),
    ("number of 5000 digits", b"seed: " + b"9" * 5000, ("not valid YAML", "digits")),
    ("JSON cut off", b'{"model": {"family": "s', ("not valid YAML",)),
]


@pytest.mark.parametrize(("content", "says"), [row[1:] for row in TEXTS], ids=[row[0] for row in TEXTS])
@pytest.mark.parametrize("command", ["check", "train"])
def test_text(tmp_path, monkeypatch, command, content, says):
    monkeypatch.chdir(tmp_path)
    Path("x.yaml").write_bytes(content)
    refused(tmp_path, command, "-c", "x.yaml", says=("x.yaml", *says))


def test_all_problems_stand_in_one_message(tmp_path):
    file = settings_file(tmp_path, {"seed": -1, "training.steps": "x", "modell": 1, "data.kind": "pair"})
    says = ("4 problems in", "seed: must be >= 0", "training.steps: must be", "modell: unknown", "data.kind: must be")
    refused(tmp_path, "check", "-c", file, says=says)


# name, arguments after the command, what the message says
ARGUMENTS: list[tuple[str, list[str], tuple[str, ...]]] = [
    ("no config", [], ("--config is missing",)),
    ("config that is not there", ["-c", "absent.yaml"], ("no config 'absent.yaml' in ./, ./configs or among",)),
    ("misspelt config", ["-c", "quickstart/difusion_dpo.yaml"], ("did you mean",)),
    ("config of 300 letters", ["-c", "a" * 300], ("File name too long; give another path",)),
    ("folder as config", ["-c", "folder"], ("folder: is a folder, not a config file",)),
    ("config with a NUL byte", ["-c", "a\0b"], ("no config 'a\\x00b'",)),
    ("override without a value", ["-c", "x.yaml", "-s", "training.steps"], ("must look like section.key=value",)),
    ("override without a key", ["-c", "x.yaml", "-s", "=3"], ("--set '=3': must look like section.key=value",)),
    ("override with a hole", ["-c", "x.yaml", "-s", "training..steps=3"], ("must look like section.key=value",)),
    ("override of an unknown path", ["-c", "x.yaml", "-s", "training.step=3"], ("did you mean 'steps'?",)),
    ("override below a value", ["-c", "x.yaml", "-s", "name.x=3"], ("name is a value, not a section",)),
    ("override below a list", ["-c", "x.yaml", "-s", "evaluation.rewards.0.name=jpeg"], ("evaluation.rewards",)),
    ("override of a wrong type", ["-c", "x.yaml", "-s", "training.steps=[1]"], ("training.steps: must be", "got [1]")),
    ("override with a python tag", ["-c", "x.yaml", "-s", "seed=!!python/name:os.x"], ("seed: must be",)),
    ("unknown option", ["-c", "x.yaml", "--steps", "3"], ("No such option", "--steps")),
    ("argument that nothing takes", ["-c", "x.yaml", "steps=3"], ("unexpected extra argument", "steps=3")),
]


@pytest.mark.parametrize(("arguments", "says"), [row[1:] for row in ARGUMENTS], ids=[row[0] for row in ARGUMENTS])
def test_arguments(tmp_path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    settings_file(tmp_path, evaluation={"rewards": [{"name": "jpeg"}]})
    (tmp_path / "folder").mkdir()
    for command in ("check", "train"):
        refused(tmp_path, command, *arguments, says=says)


def test_of_two_overrides_the_later_one_counts(tmp_path):
    seen = call("check", "--json", "-c", settings_file(tmp_path), "-s", "training.steps=7", "-s", "training.steps=9")
    assert (seen.code, seen.err) == (0, "")
    assert '"steps": 9' in seen.out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["list", "objectivs"], ("list: must be one of objectives", "did you mean 'objectives'?")),
        (
            ["list", "rewards", "jpg"],
            ("fad_song, stability, vendi, frechet, fad, got 'jpg'; did you mean 'jpeg'?",),
        ),
        (["list", "zoo", ""], ("list zoo: must be one of", "got ''")),
        (["doctor", "now"], ("unexpected extra argument", "now")),
        (["trian"], ("No such command", "trian")),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, list) else "",
)
def test_other_commands(tmp_path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    refused(tmp_path, *arguments, says=says)
