"""What stands in a batch: samples, with prompts where they are needed."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from PIL import Image

from diffalign.rewards import REWARDS, Sample
from tests.rewards.test_protocol import NAMES, load

_UNTYPED = """
import json, numpy
from PIL import Image
from diffalign.rewards import RewardEnsemble, Sample, any_reward_of_text, load_reward

picture, told = Image.new("RGB", (8, 8)), []
jpeg, scene, vendi = (any_reward_of_text(name) for name in ("jpeg", "scene", "vendi"))
for prompt in (None, 7):
    told.append(scene.score([Sample(picture, prompt)]).reasons)
told.append(scene([picture], [None]).isnan().tolist())
told.append(jpeg.score([Sample(picture, None)]).reasons)
wrong = [lambda each=each, score=score: score(each) for score in (jpeg.score, vendi.score_set)
         for each in ([picture], picture, numpy.zeros((1, 8, 8, 3)))]
wrong += [lambda each=each: RewardEnsemble(each) for each in ([jpeg, "ocr"], "jpeg", jpeg, [jpeg, vendi])]
for each in wrong:
    try:
        each()
    except Exception as error:
        told.append(f"{type(error).__name__}: {error}")
print(json.dumps(told))
"""


@pytest.mark.parametrize("prompt", ["", " \n"])
@pytest.mark.parametrize("name", sorted(name for name in NAMES if "prompt" in REWARDS[name].spec.needs))
def test_without_a_prompt_there_is_a_reason_and_no_score(name, prompt):
    output = load(name).score([Sample(Image.new("RGB", (32, 32)), prompt)])
    assert output.reasons == (f"it has no prompt, which {name} needs",) and output.values.isnan().all()


def test_what_is_no_sample_no_prompt_and_no_reward():
    """In a process of its own: here the tests' check of types would refuse it first."""
    done = subprocess.run([sys.executable, "-c", _UNTYPED], capture_output=True, text=True, check=True, timeout=120)
    none, number, called, fine, *refused = json.loads(done.stdout)
    assert none == ["it has no prompt, which scene needs"] and number == ["its prompt must be text, got int"]
    assert called == [True] and fine == [None]
    for got, message in zip(["one of Image", "Image", "ndarray"] * 2, refused[:6], strict=True):
        assert message == (
            f"DataError: score takes a list of Sample(media, prompt), got {got}; or call the reward itself: "
            "reward(media, prompts)"
        )
    start = "ConfigError: rewards: must be a list of rewards, as load_reward"
    assert refused[6:] == [
        f"{start}('ocr') makes one, got str in it",
        f"{start}('jpeg') makes one, got str",
        f"{start}(NAME) makes one, got JPEGReward",
        f"{start}(NAME) makes one, got VendiReward in it",
    ]
