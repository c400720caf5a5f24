"""Config files: where they are found, how they are read, and that reading them needs no torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from diffalign.config import RewardRunConfig, RunConfig, find_config, load_config, parse_config
from diffalign.config.loading import list_configs
from diffalign.config.yaml_values import read_yaml, write_yaml
from diffalign.exceptions import ConfigError
from tests.config.minimal import config_file, settings


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
def test_unknown_name_says_where_names_are_listed(name):
    with pytest.raises(ConfigError) as caught:
        find_config(name)
    assert "diffalign list configs" in str(caught.value)
    assert ("did you mean" in str(caught.value)) == (name != "zzz")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("quickstrt", "did you mean one of quickstart/, such as 'quickstart/"),
        ("quickstart", "did you mean one of quickstart/, such as 'quickstart/"),
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
    assert isinstance(load_config(name), RewardRunConfig if name.endswith("_reward.yaml") else RunConfig)


def test_there_are_packaged_configs():
    assert "quickstart/diffusion_dpo.yaml" in list_configs()


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
