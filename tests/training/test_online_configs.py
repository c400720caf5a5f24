"""What of an online run's settings does not fit together is said before anything is loaded."""

from __future__ import annotations

import pytest

from diffalign.config import parse_config
from diffalign.exceptions import ConfigError
from tests.training.online import DDIM, online
from tests.training.tiny import tiny, tiny_settings

D3PO = {"name": "d3po"}
DPO = {"name": "diffusion_dpo", "beta": 500.0}
GRPO = {"name": "flow_grpo"}
AWM = {"name": "awm"}
DRAGON = {"name": "dragon", "contrast": "dpo", "beta": 500.0}
SDE = {"name": "flow_sde", "steps": 6}
CPS = SDE | {"form": "cps"}
VENDI = {"rewards": [], "set_reward": {"name": "vendi"}}
TWO = {"rewards": [{"name": "scene"}, {"name": "jpeg"}], "combine": "standardised"}

BAD = {
    "online.prompts": [({"online": {"prompts": 3}}, DPO)],
    "online.rewards": [({"online": {"rewards": []}}, DPO)],
    "online.members": [({"online": {"members": 1}}, D3PO), ({"online": VENDI | {"members": 3}}, DRAGON)],
    "online.sampler.eta": [({"online": {"sampler": {"name": "ddim", "steps": 3}}}, D3PO)],
    "online.keep_rounds": [({"online": {"keep_rounds": 2}}, DPO)],
    "online.weights": [
        ({"online": {"weights": [1.0, 2.0]}}, DPO),
        ({"online": {"weights": [0.0]}}, DPO),
        ({"online": TWO | {"weights": [1.0, -1.0]}}, AWM),
    ],
    "online.combine": [({"online": {"combine": "decoupled"}}, DPO)],
    "online.advantage": [
        ({"online": {"advantage": {"scope": "batch"}}}, DPO),
        ({"online": TWO | {"advantage": {"scope": "batch"}}}, AWM),
    ],
    "online.average_decay": [
        ({"online": {"average_decay": {"largest": 0.5}}}, DPO),
        ({"online": {"average_decay": {"largest": 0.5}}}, AWM | {"ema_weight": 0.0}),
    ],
    "online.reference_every": [
        ({"online": {"reference_every": 2}}, AWM | {"kl_weight": 0.0}),
        ({"online": {"reference_every": 2}}, {"name": "sft"}),
    ],
    "online.branch_norms": [({"online": {"branch_norms": False}}, DPO)],
    "online.skip_last": [
        ({"online": {"skip_last": 3}}, D3PO),
        ({"online": {"sampler": SDE | {"window": {"length": 2}}, "skip_last": 2}}, GRPO, "sd3"),
    ],
    "online.trained_steps": [
        ({"online": {"trained_steps": 3, "skip_last": 1}}, D3PO),
        ({"online": {"sampler": SDE | {"form": "cps", "steps": 3}, "trained_steps": 3}}, GRPO, "sd3"),
    ],
    "online.sampler.window": [
        (
            {"online": {"sampler": SDE | {"window": {"length": 2, "leave_last": 9, "schedule": "progressive"}}}},
            GRPO,
            "sd3",
        ),
        # its last step adds no noise
        ({"online": {"sampler": CPS | {"window": {"length": 2, "first": 4}}}}, GRPO, "sd3"),
        ({"online": {"sampler": CPS | {"window": {"length": 2, "schedule": "random", "shift": 0}}}}, GRPO, "sd3"),
        ({"online": {"sampler": CPS | {"window": {"length": 2, "schedule": "progressive", "shift": 4}}}}, GRPO, "sd3"),
    ],
    "online.sampler.window.leave_last": [
        ({"online": {"sampler": SDE | {"window": {"length": 1, "leave_last": 1}}}}, GRPO, "sd3"),
    ],
    "online.sampler.window.every": [
        ({"online": {"sampler": SDE | {"window": {"length": 2, "every": 3}}}}, GRPO, "sd3"),
    ],
    "online.sampler.window.first": [
        ({"online": {"sampler": SDE | {"window": {"length": 2, "first": 1, "schedule": "random"}}}}, GRPO, "sd3"),
    ],
    "evaluation.sampler.window.schedule": [
        ({"evaluation": {"sampler": SDE | {"window": {"length": 2, "schedule": "random"}}}}, {"name": "nft"}, "sd3"),
    ],
    "objective.guard": [({"online": {"sampler": SDE | {"form": "cps"}}}, GRPO | {"guard": True}, "sd3")],
    "time.skip_last": [({"time": {"sampling": "schedule", "skip_last": 3}}, DPO)],
    "time": [({"time": {"sampling": "schedule"}}, D3PO)],
    "data.kind": [({"data": {"kind": "pairs"}}, DPO)],
    "data.flip": [({"data": {"flip": True}}, DPO)],
    "data.split": [({"data": {"split": "test"}}, DPO)],
    "data.reward_range": [({"data": {"reward_range": [0.0, 2.0]}}, GRPO)],
    "evaluation.trained_reward": [
        ({"evaluation": {"rewards": [{"name": "jpeg"}], "trained_reward": "jpeg"}}, DPO),
        (
            {
                "online": {"preference": "human", "rewards": []},
                "evaluation": {"rewards": [{"name": "scene"}], "trained_reward": "scene"},
            },
            DPO,
        ),
    ],
    "training.two_pass": [({"training": {"two_pass": True}}, D3PO)],
    "training.share_time": [({"training": {"share_time": False}}, D3PO)],
    "training.measure": [
        ({"training": {"measure": "sample"}}, GRPO),
        ({"training": {"measure": "noise"}}, {"name": "nft"}, "sd3"),
        ({"training": {"measure": "noise"}}, AWM | {"kl_weight": 0.1}),
    ],
    "training.noise": [({"training": {"noise": {"name": "inversion"}}}, GRPO)],
    "training.pair_weight": [({"online": VENDI, "training": {"pair_weight": {"name": "margin"}}}, DPO)],
    "model.lora.dropout": [({"model": {"lora": {"rank": 2, "alpha": 2, "dropout": 0.1}}}, D3PO)],
    "training.reference_bank": [({"training": {"reference_bank": 1}}, DPO)],
}
CASES = [pytest.param((path, *case), id=f"{path}-{n}") for path, cases in BAD.items() for n, case in enumerate(cases)]


@pytest.mark.parametrize("case", CASES)
def test_what_does_not_fit_is_said_with_its_path(tmp_path, case):
    path, sections, objective, *family = case
    with pytest.raises(ConfigError) as found:
        online(tmp_path, objective, *family, **sections)
    assert any(line.strip().startswith(f"{path}") for line in str(found.value).splitlines()), found.value


@pytest.mark.parametrize(
    "window",
    [
        {"length": 2, "first": 3},
        {"length": 2, "schedule": "random", "leave_last": 1},
        {"length": 2, "schedule": "progressive", "shift": 0},
        {"length": 2, "schedule": "progressive", "shift": 3},  # at 0 and 3 of 6
    ],
)
def test_a_window_of_cps_that_stays_before_the_last_step(tmp_path, window):
    online(tmp_path, GRPO, "sd3", online={"sampler": CPS | {"window": window}})


def test_every_reward_that_judges_is_one_that_was_trained_on(tmp_path):
    votes = {"rewards": [{"name": "scene"}, {"name": "scene", "form": "graded"}, {"name": "jpeg"}], "combine": "votes"}
    assert online(tmp_path, DPO, online=votes).trained_on == ("scene", "jpeg")
    assert online(tmp_path, DRAGON, online=VENDI).trained_on == ("vendi",)
    assert online(tmp_path, DPO, online={"preference": "human", "rewards": []}).trained_on == ()
    scene = {"rewards": [{"name": "scene"}], "trained_reward": "scene"}
    assert tiny(tmp_path, evaluation=scene).trained_on == ("scene",)


def test_guidance_of_training_is_no_setting_of_methods_on_trajectories(tmp_path):
    settings = tiny_settings(tmp_path, data={"kind": "prompts", "path": "p.txt"}, objective=GRPO)
    settings |= {"model": {"family": "flux", "path": "some/where", "guidance": 2.0}}
    with pytest.raises(ConfigError, match=r"model\.guidance: 'flow_grpo' trains with online\.guidance_scale"):
        parse_config(settings | {"online": {"rewards": [{"name": "scene"}], "sampler": SDE}})


@pytest.mark.parametrize(
    "setting",
    [VENDI, {"preference": "human"}, {"passes": 2}, {"swap_passes": 2}, {"advantage": {"scope": "batch"}}],
)
def test_what_experts_have_no_use_for_is_refused(tmp_path, setting):
    with pytest.raises(ConfigError, match=r"online\.\w+: has no meaning for 'diffusion_dro'"):
        tiny(tmp_path, data={"kind": "groups"}, objective={"name": "diffusion_dro"}, online={"sampler": DDIM} | setting)


def test_an_online_method_without_the_section_is_told_of_it(tmp_path):
    with pytest.raises(ConfigError, match="add the section `online`"):
        tiny(tmp_path, objective=D3PO)


def test_prompts_without_the_section_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"data\.kind: 'prompts'"):
        tiny(tmp_path, data={"kind": "prompts"})
