"""Config files: where they are found, every kind of mistake, and what is written back."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from diffalign.config import RunConfig, find_config, load_config, parse_config, save_config
from diffalign.config.loading import list_configs
from diffalign.config.objectives import OBJECTIVE_PARAMS
from diffalign.config.yaml_values import read_yaml, write_yaml
from diffalign.exceptions import ConfigError

OBJECTIVE_NAMES = [params.model_fields["name"].default for params in OBJECTIVE_PARAMS]


def settings(**sections: Any) -> dict[str, Any]:
    """The least that a config has, with whole sections replaced."""
    base: dict[str, Any] = {
        "model": {"family": "sd3", "path": "zoo://shapes-sd3"},
        "data": {"path": "zoo://shapes-sd3/preferences"},
        "objective": {"name": "flow_dpo"},
        "optimizer": {"learning_rate": 1e-4},
        "training": {"steps": 10, "groups": 2},
    }
    return base | sections


def problems_of(*overrides: str, **sections: Any) -> list[str]:
    """The lines of the message after its heading; fails if there is no error."""
    with pytest.raises(ConfigError) as caught:
        parse_config(settings(**sections), overrides)
    heading, *lines = str(caught.value).splitlines()
    noun = "problem" if len(lines) == 1 else "problems"
    assert heading == f"{len(lines)} {noun} in the config"
    return [line.removeprefix("  ") for line in lines]


def refusal_of(*overrides: str, **sections: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_config(settings(**sections), overrides)
    return str(caught.value)


def config_file(folder: Path, text: str | bytes, name: str = "x.yaml") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


# ---------------------------------------------------------------- every kind of problem, with its path and a way out


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("optimiser.learning_rate=1", "optimiser: unknown key; did you mean 'optimizer'?"),
        ("objective.betta=3", "objective.betta: unknown key; did you mean 'beta'?"),
        ("model.lora.rnk=3", "model.lora.rnk: unknown key; did you mean 'rank'?"),
        ("data.zzz=3", "data.zzz: unknown key; known keys: kind, members, path, resolution"),
        (
            "evaluation.rewards=[{name: scene}, {name: jpeg, qualty: 1}]",
            "evaluation.rewards.1.qualty: unknown key; did you mean 'quality'?",
        ),
        (
            "evaluation.rewards=[{name: jpeg, forn: strict}]",
            "evaluation.rewards.0.forn: unknown key; known keys: name, quality, direction",
        ),
        ("evaluation.sampler={name: ddim, etha: 0.1}", "evaluation.sampler.etha: unknown key; did you mean 'eta'?"),
        ("time={sampling: shifted, shift: 3, men: 1}", "time.men: unknown key; known keys: sampling, shift"),
        ("training.steps=many", "training.steps: must be a valid integer, got 'many'"),
        ("training.steps=1.5", "training.steps: must be a valid integer"),
        ("training.steps=true", "training.steps: must be a valid integer, got 'true'"),
        ("optimizer.learning_rate=fast", "optimizer.learning_rate: must be a valid number, got 'fast'"),
        ("optimizer.learning_rate=.inf", "optimizer.learning_rate: must be a finite number, got inf"),
        ("optimizer.learning_rate=.nan", "optimizer.learning_rate: must be"),
        ("optimizer.betas=0.9", "optimizer.betas: must be a list, got 0.9"),
        ("optimizer.betas=[0.9, 1.0]", "optimizer.betas.1: must be < 1, got 1.0"),
        ("model.gradient_checkpointing=3", "model.gradient_checkpointing: must be a valid boolean"),
        ("model=sd", "model: must be a section of keys, got 'sd'; known keys: family, path"),
        ("name=7", "name: must be a valid string, got 7"),
        ("optimizer.learning_rate=-0.0001", "optimizer.learning_rate: must be > 0, got -0.0001"),
        ("data.empty_prompt_share=1.5", "data.empty_prompt_share: must be <= 1, got 1.5"),
        ("training.ema_decay=1", "training.ema_decay: must be < 1, got 1"),
        ("seed=-1", "seed: must be >= 0, got -1"),
        (
            "optimizer.schedule=cosin",
            "optimizer.schedule: must be 'constant', 'linear' or 'cosine', got 'cosin'; did you mean",
        ),
        (
            "objective.name=difusion_dpo",
            f"must be one of {', '.join(map(repr, OBJECTIVE_NAMES))}, got 'difusion_dpo'; did you mean 'diffusion_dpo'?",
        ),
        (
            "objective={beta: 3}",
            f"objective.name: required, but missing; one of {', '.join(sorted(OBJECTIVE_NAMES))}",
        ),
        ("time={sampling: shifted}", "time.shift: required, but missing"),
        ("name=my run", "name: must match"),
        ("data.columns={promt: caption}", "data.columns.promt: must be 'prompt', "),
        ("data.columns={promt: caption}", "did you mean 'prompt'?"),
    ],
)
def test_problem_says_where_what_and_what_instead(override, says):
    (problem,) = problems_of(override)
    assert says in problem


@pytest.mark.parametrize("section", ["model", "data", "objective", "optimizer", "training"])
def test_missing_section(section):
    content = settings()
    del content[section]
    with pytest.raises(ConfigError, match=f"^1 problem in the config\n  {section}: required, but missing$"):
        parse_config(content)


def test_all_problems_at_once_across_sections():
    problems = problems_of(
        optimizer={"learning_rate": -1, "warmupsteps": 3},
        training={"groups": 0},
        health={"window": 0},
        model={"family": "sdxl", "path": "x"},
    )
    paths = {problem.split(":")[0] for problem in problems}
    expected = {
        "optimizer.learning_rate",
        "optimizer.warmupsteps",
        "training.groups",
        "training.steps",
        "health.window",
    }
    assert paths == expected | {"model.family"}


def test_dotted_key_in_a_file_is_explained():
    (problem,) = problems_of(**{"optimizer.learning_rate": 1e-4})
    assert "sections are nested: write 'learning_rate:' inside 'optimizer:'" in problem


@pytest.mark.parametrize("content", [{"name.x.y": 1}, {1: 2}, {"evaluation": {"rewards": ({"name": "jpeg", "x": 1},)}}])
def test_odd_keys_are_problems_not_crashes(content):
    assert all(
        "unknown key" in problem for problem in problems_of(**{str(key): value for key, value in content.items()})
    )


def test_long_values_are_cut():
    (problem,) = problems_of(model="x" * 5000)
    assert len(problem) < 300


# ---------------------------------------------------------------- settings that do not fit together


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (
            ["model.family=sd"],
            "objective.name: 'flow_dpo' needs a flow model (sd3), and model.family 'sd' is none; use",
        ),
        (
            ["model.family=sd", "objective={name: sft}", "evaluation.sampler={name: flow_euler}"],
            "evaluation.sampler.name: 'flow_euler' needs a flow model",
        ),
        (
            ["model.family=sd", "objective={name: sft}", "model.max_sequence_length=4"],
            "model.max_sequence_length: is a setting of family 'sd3'",
        ),
        (["optimizer.warmup_steps=10"], "optimizer.warmup_steps: must be < training.steps (10), got 10"),
        (["objective.schedule=one_minus_t_sq", "training.share_time=false"], "training.share_time: must be true"),
        (["samples.every=5"], "samples.every: needs evaluation.prompts"),
        (
            ["evaluation.trained_reward=ocr"],
            "evaluation.trained_reward: 'ocr' is not in evaluation.rewards (jpeg)",
        ),
        (
            ["evaluation.rewards=[{name: scene}, {name: scene, form: graded}]"],
            "evaluation.rewards: each reward may stand there once",
        ),
        (
            ["evaluation.rewards=[{name: scene}]", "evaluation.trained_reward=scene", "evaluation.quality=scene"],
            "evaluation.quality: must look like reward.component",
        ),
        (
            ["evaluation.rewards=[{name: scene}]", "evaluation.trained_reward=scene", "evaluation.quality=ocr.x"],
            "got 'ocr.x'",
        ),
        (["evaluation.quality=jpeg.x"], "evaluation.quality: needs evaluation.trained_reward"),
    ],
)
def test_sections_must_fit_together(overrides, says):
    (problem,) = problems_of(*overrides)
    assert says in problem


def test_all_misfits_at_once():
    problems = problems_of(
        "model.family=sd", "optimizer.warmup_steps=99", "samples.every=1", "evaluation.trained_reward=x"
    )
    assert [problem.split(":")[0] for problem in problems] == [
        "objective.name", "optimizer.warmup_steps", "samples.every", "evaluation.trained_reward",
    ]  # fmt: skip


def test_the_home_folder_is_meant_by_a_tilde(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    given = settings(
        folder="~/runs",
        model={"family": "sd3", "path": "~/model"},
        data={"path": "~/pairs", "cache": "~/cache"},
        evaluation={"prompts": "~/held_out.txt"},
    )
    config = parse_config(given, ["data.cache=~/elsewhere"])
    seen = (config.folder, config.model.path, config.data.path, config.data.cache, config.evaluation.prompts)
    assert seen == tuple(f"{tmp_path}/{name}" for name in ("runs", "model", "pairs", "elsewhere", "held_out.txt"))
    assert parse_config(settings()).model.path == "zoo://shapes-sd3"
    assert parse_config(settings(model={"family": "sd3", "path": "nobody/a~b"})).model.path == "nobody/a~b"


def test_groups_per_step_counts_processes_and_accumulation():
    config = parse_config(settings(training={"steps": 1, "groups": 3, "accumulation": 5, "processes": 7}))
    assert config.groups_per_step == 105


# ---------------------------------------------------------------- files


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "is empty"),
        ("# only a comment\n", "is empty"),
        ("- a\n- b\n", "holds a list"),
        ("just text", "holds a str"),
        ("a: [1, 2", "not valid YAML"),
        ("a: b: c", "not valid YAML"),
        ("\tname: x", "not valid YAML"),
        ("seed: 1\nname: x\nseed: 2\n", "'seed' stands twice"),
        ("training: {steps: 1, steps: 2}", "'steps' stands twice"),
        (b"name: \xff\xfe\n", "not UTF-8 text"),
        ("seed: 1".encode("utf-16"), "not UTF-8 text"),
        ("a: &x\n  b: *x\n", "alias refers to itself"),
        ("a: !!python/object/apply:os.system ['true']", "not valid YAML"),
    ],
)
def test_unreadable_file_is_one_message(tmp_path, content, says):
    path = config_file(tmp_path, content)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert says in str(caught.value)
    assert str(path) in str(caught.value)


def test_heading_names_the_file(tmp_path):
    path = config_file(tmp_path, write_yaml(settings(name="a b")))
    with pytest.raises(ConfigError, match=r"1 problem in .*x.yaml\n  name: must match"):
        load_config(path)


def test_lookup_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    packaged = find_config("quickstart/diffusion_dpo.yaml")
    assert packaged.resolve().is_relative_to(Path(__file__).resolve().parents[2])
    (tmp_path / "configs" / "quickstart").mkdir(parents=True)
    in_configs = config_file(tmp_path / "configs" / "quickstart", "", "diffusion_dpo.yaml")
    assert find_config("quickstart/diffusion_dpo.yaml").resolve() == in_configs.resolve()
    (tmp_path / "quickstart").mkdir()
    here = config_file(tmp_path / "quickstart", "", "diffusion_dpo.yaml")
    assert find_config("quickstart/diffusion_dpo.yaml").resolve() == here.resolve()
    assert find_config("quickstart/diffusion_dpo").resolve() == here.resolve()  # the ending may be left out
    assert find_config(here.resolve()) == here.resolve()  # an absolute path


@pytest.mark.parametrize("name", ["quickstart/difusion_dpo.yaml", "diffusion_dpo.yml", "zzz"])
def test_unknown_name_lists_what_there_is(name):
    with pytest.raises(ConfigError) as caught:
        find_config(name)
    assert "quickstart/diffusion_dpo.yaml" in str(caught.value)
    assert ("did you mean" in str(caught.value)) == (name != "zzz")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("quickstrt", "did you mean 'quickstart/diffusion_dpo.yaml' or 'quickstart/flow_dpo.yaml'"),
        ("quickstart", "did you mean 'quickstart/diffusion_dpo.yaml' or 'quickstart/flow_dpo.yaml'"),
        ("flow_dpo", "did you mean 'quickstart/flow_dpo.yaml'?"),
        ("quickstart/difusion_dpo", "did you mean 'quickstart/diffusion_dpo.yaml'?"),
        ("sd15_dop.yaml", "did you mean 'sd15_dpo.yaml'?"),
    ],
)
def test_unknown_name_suggests_the_nearest(tmp_path, monkeypatch, name, says):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        find_config(name)
    assert says in str(caught.value)


def test_a_run_saves_checkpoints_without_being_told():
    assert parse_config(settings()).training.checkpoint_every == 100
    assert parse_config(settings(), ["training.checkpoint_every=null"]).training.checkpoint_every is None


@pytest.mark.parametrize("name", list_configs())
def test_packaged_config_is_valid(name):
    assert isinstance(load_config(name), RunConfig)


def test_there_are_packaged_configs():
    assert "quickstart/diffusion_dpo.yaml" in list_configs()


# ---------------------------------------------------------------- overrides


@pytest.mark.parametrize("text", ["1e-4", "1E-4", "1.0e-4", "0.0001", "+1e-4", "'1e-4'"])
def test_exponent_is_a_number_in_overrides_and_files(tmp_path, text):
    assert parse_config(settings(), [f"optimizer.learning_rate={text}"]).optimizer.learning_rate == 1e-4
    whole = write_yaml(settings()).replace("learning_rate: 0.0001", f"learning_rate: {text}")
    assert whole.count(text) == 1
    assert load_config(config_file(tmp_path, whole)).optimizer.learning_rate == 1e-4


def test_override_makes_sections_and_wins():
    config = parse_config(
        settings(name="file"),
        ["name=set", "model.lora.rank=3", "health.saturation=off", "training.mixed_precision=no", "seed= 5 "],
    )
    assert (config.name, config.model.lora.rank, config.seed) == ("set", 3, 5)
    assert (config.health.saturation, config.training.mixed_precision) == ("off", "no")  # false, to a YAML 1.1 reader


def test_later_override_wins_and_content_stays():
    content = settings()
    assert parse_config(content, ["seed=1", "seed=2"]).seed == 2
    assert "seed" not in content


@pytest.mark.parametrize("override", ["seed", "=3", ".seed=3", "training..steps=3", ""])
def test_malformed_override(override):
    assert refusal_of(override).startswith(f"--set {override!r}: must look like section.key=value")


def test_all_malformed_overrides_at_once():
    assert refusal_of("seed", "x", "name=good").splitlines() == [
        "--set 'seed': must look like section.key=value, for example optimizer.learning_rate=1e-4",
        "--set 'x': must look like section.key=value, for example optimizer.learning_rate=1e-4",
    ]


def test_override_into_a_value_or_a_list():
    assert "objective.name is a value, not a section" in refusal_of("objective.name.x=3")
    rewards = {"rewards": [{"name": "jpeg"}]}
    assert "evaluation.rewards is a list: set it as a whole" in refusal_of(
        "evaluation.rewards.0.quality=3", evaluation=rewards
    )


@pytest.mark.parametrize("text", ["[", "2024-13-45", "08", "{a", "1:30:00", "\x00"])
def test_odd_override_values_are_text(text):
    assert parse_config(settings(), [f"data.path={text}"]).data.path == text


def test_null_takes_a_value_away():
    assert (
        parse_config(
            settings(training={"steps": 1, "groups": 1, "max_batch": 4}), ["training.max_batch=null"]
        ).training.max_batch
        is None
    )
    assert "write null for none" in problems_of("training.max_batch=none")[0]


# ---------------------------------------------------------------- writing


@pytest.mark.parametrize("name", list_configs())
def test_round_trip_of_packaged_configs(name, tmp_path):
    config = load_config(name)
    save_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config


ODD_TEXTS = [
    "no",
    "off",
    "1e5",
    "1e-4",
    "true",
    "null",
    "~",
    "0x1f",
    "010",
    "2024-01-01",
    "1:30",
    "данные/пары ✓",
    " a: b # c",
    "",
    "=",
    "<<",
    "'",
    "\n",
]


@pytest.mark.parametrize("text", ODD_TEXTS)
def test_round_trip_of_odd_texts(text, tmp_path):
    config = parse_config(settings(data={"path": text, "cache": text, "columns": {"prompt": text}}))
    save_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config
    assert yaml.safe_load((tmp_path / "config.yaml").read_text("utf-8"))["data"]["columns"]["prompt"] == text
    assert not list(tmp_path.glob(".*"))  # no draft is left


def test_round_trip_of_infinity_and_rare_settings(tmp_path):
    config = parse_config(
        settings(
            time={"sampling": "logit_normal", "std": 0.5}, evaluation={"sampler": {"name": "flow_euler", "steps": 3}}
        ),
        ["optimizer.max_grad_norm=inf", "optimizer.learning_rate=1e-300", "model.lora.targets=[to_q, to_k]"],
    )
    assert math.isinf(config.optimizer.max_grad_norm)
    save_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config


def test_unicode_names_are_kept_in_paths_and_refused_in_the_run_s_name():
    assert parse_config(settings(), ["data.path=дані/☃.jsonl"]).data.path == "дані/☃.jsonl"
    assert "name: must match" in problems_of("name=прогон")[0]
    assert "name: must match" in problems_of("name=../up")[0]


def test_yaml_keeps_merge_keys_and_numbers():
    assert read_yaml("a: &x {b: 1_000, c: .5, d: -3}\ne:\n  <<: *x\n  b: 2") == {
        "a": {"b": 1000, "c": 0.5, "d": -3}, "e": {"b": 2, "c": 0.5, "d": -3},
    }  # fmt: skip


def test_config_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        parse_config(settings()).training.steps = 3


def test_loading_imports_no_torch():
    code = (
        "import sys; from diffalign.config import load_config; load_config('quickstart/diffusion_dpo.yaml'); "
        "print([name for name in ('torch', 'numpy', 'diffusers', 'PIL') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
