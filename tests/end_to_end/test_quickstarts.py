"""The quickstarts as a newcomer runs them: a held-out reward must rise, and the interval must be clear of zero."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from diffalign.evaluation import jackknife
from diffalign.rewards import Sample, load_reward

SMALL_FILES = (  # the quickstart of two minutes
    "online.rewards=[{name: jpeg}]",
    "online.prompts=32",
    "online.members=4",
    "optimizer.learning_rate=1e-3",
    "training.groups=16",
    "training.steps=16",
    "samples.every=null",
    "evaluation.trained_reward=jpeg",
    "evaluation.count=64",
)


def _run(config: str, folder, *settings: str) -> dict:
    command = [sys.executable, "-m", "diffalign", "train", "--config", config, "--set", f"folder={folder}"]
    command += [part for each in settings for part in ("--set", each)]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"}, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    run = done.stdout.strip().splitlines()[-1]
    page = (Path(run) / "report.html").read_text(encoding="utf-8")
    assert "<img" in page and "http://" not in page.replace("http://www.w3.org", "")
    print(done.stdout)
    with open(os.path.join(run, "evaluation", "summary.json"), encoding="utf-8") as file:
        return json.load(file)


def _long(*methods: str) -> list:
    """What is trained before a release, and not on every change."""
    return [pytest.param(method, marks=pytest.mark.long) for method in methods]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["diffusion_dpo", *_long("flow_dpo", "gdro", "rank_dpo", "diffusion_kto", "smpo")])
def test_a_quickstart_raises_the_held_out_reward(method, tmp_path):
    summary = _run(f"quickstart/{method}.yaml", tmp_path)
    scene, jpeg = summary["rewards"]["scene"], summary["rewards"]["jpeg"]
    assert summary["prompts"] >= 400
    assert scene["trained_on"] and not jpeg["trained_on"]
    assert 0.35 <= scene["base_mean"] <= 0.75  # recognisable, with headroom
    assert scene["low"] > 0  # the interval is clear of zero, not only the mean above it
    assert scene["wins"] > scene["losses"]
    assert abs(jpeg["difference"]) < 0.2  # kB, of about 1.4: the pictures stay as complex as they were
    assert summary["diversity"]["aligned"] > 0.9 * summary["diversity"]["base"]


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("method", ["flow_grpo", "nft", "d3po", "ddpo", "diffusion_dro", "rank_dpo_votes"])
def test_an_online_quickstart_raises_the_held_out_reward(method, tmp_path):
    """The graded reward of captions that the policy has never drawn for."""
    summary = _run(f"quickstart/{method}.yaml", tmp_path)
    scene, jpeg = summary["rewards"]["scene"], summary["rewards"]["jpeg"]
    assert summary["prompts"] >= 400 and scene["trained_on"] and not jpeg["trained_on"]
    assert scene["low"] > 0
    assert (
        method == "ddpo" or scene["wins"] > scene["losses"]
    )  # it wins fewer captions, by more: docs/methods/README.md
    assert summary["diversity"]["aligned"] > 0.8 * summary["diversity"]["base"]


@pytest.mark.slow
@pytest.mark.long
def test_dragon_vendi_makes_pictures_more_different_at_the_same_quality(tmp_path):
    summary = _run("quickstart/dragon_vendi.yaml", tmp_path)
    (run,) = tmp_path.glob("dragon_vendi-*")
    vendi, whole, without = load_reward("vendi"), [], []
    for side in ("base", "aligned"):
        files = sorted((run / "evaluation" / side).glob("*.png"))
        features, _ = vendi.features([Sample(Image.open(file)) for file in files])
        whole.append(vendi.value(vendi.start(features)))
        without.append(whole[-1] - vendi.leave_one_out(features))
    found = jackknife(whole[1] - whole[0], (without[1] - without[0]).numpy(), confidence=0.95)
    assert summary["prompts"] >= 400 and found.low > 0
    assert summary["rewards"]["scene"]["high"] > 0  # the graded scene has not fallen for certain


@pytest.mark.slow
@pytest.mark.parametrize("method", ["d3po"])
def test_the_online_loop_makes_smaller_files_when_these_are_rewarded(method, tmp_path):
    """A reward that a few rounds can raise, on held-out captions."""
    summary = _run(f"quickstart/{method}.yaml", tmp_path, *SMALL_FILES)
    jpeg = summary["rewards"]["jpeg"]
    assert jpeg["trained_on"] and jpeg["low"] > 0 and jpeg["wins"] > 2 * jpeg["losses"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("dso_dpo", ["training.steps=32", "samples.every=null"]),  # two rounds of six
        *(pytest.param(method, [], marks=pytest.mark.long) for method in ("dso_dpo", "dso_dro")),
    ],
)
def test_more_shapes_stand_and_they_are_no_slabs(method, settings, tmp_path):
    """Held-out captions; what a slab would show in is bounded."""
    summary = _run(f"quickstart/{method}.yaml", tmp_path, *settings)
    stability, geometry = summary["rewards"]["stability"], summary["geometry"]
    assert summary["prompts"] == 94 and stability["trained_on"]
    assert 0.35 <= stability["base_mean"] <= 0.65
    assert stability["low"] > 0 and stability["wins"] > stability["losses"]
    assert summary["diversity"]["aligned"] > 0.85 * summary["diversity"]["base"]
    assert geometry["empty"] == [0, 0] and geometry["shared"] > 0.5
    assert geometry["chamfer"] < geometry["two_draws"]["chamfer"]  # nearer to the base's shape than another draw of it
    assert geometry["volume"]["aligned"] < 1.35 * geometry["volume"]["base"]


@pytest.mark.slow
@pytest.mark.long
def test_the_designers_emoji_before_its_own_raise_the_likeness_of_other_names(tmp_path):
    summary = _run("quickstart/emoji_dpo.yaml", tmp_path)
    emoji, jpeg = summary["rewards"]["emoji"], summary["rewards"]["jpeg"]
    assert summary["prompts"] == emoji["scored"] == 120
    assert not emoji["trained_on"]
    assert 0.75 <= emoji["base_mean"] <= 0.9  # recognisable, with headroom to the autoencoder's 0.936
    assert emoji["low"] > 0.005
    assert emoji["wins"] > 2 * emoji["losses"]
    assert abs(jpeg["difference"]) < 0.1  # kB
