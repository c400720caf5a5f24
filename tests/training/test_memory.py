"""The memory estimate: against real steps on tiny models, and what each setting does to it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.memory_estimate import config_of, prepared, save_middle, tensors_of_a_step
from diffalign.backbones import FullSettings, LoRASettings, load_backbone
from diffalign.backbones.published import PUBLISHED
from diffalign.backbones.weightless import copies_of, load_weightless, parts_of
from diffalign.config import load_config
from diffalign.exceptions import ConfigError
from diffalign.training.fitting import propose
from diffalign.training.memory import MemoryEstimate, MemoryEstimator, members_of
from tests.backbones.models import ALL_FAMILIES, path_of
from tests.data.pictures import write_rows

CLOSE = 0.15


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("memory")


def quickstart(*overrides: str) -> Any:
    return load_config("quickstart/diffusion_dpo.yaml", ["samples.every=null", "evaluation.prompts=null", *overrides])


def total(estimator: MemoryEstimator, *overrides: str) -> int:
    return estimator(quickstart(*overrides)).tensors("training")


def assert_close(estimate: dict[str, int], measured: dict[str, int]) -> None:
    seen = sum(estimate.values()) / sum(measured.values())
    assert abs(seen - 1) < CLOSE, f"{estimate} against {measured}"


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("trained", ["lora", "full"])
@pytest.mark.parametrize("model", ["shapes-sd", pytest.param("shapes-sd3", marks=pytest.mark.slow)])
def test_estimate_of_a_step_is_what_real_tensors_take(home, model, trained, checkpointing):
    config = config_of(model, trained, checkpointing, home, ["training.groups=2"])
    measured = tensors_of_a_step(prepared(config))
    estimate = MemoryEstimator("cpu")(config).stages["training"]
    assert_close(estimate, measured)
    for use in ("frozen weights", "trained weights", "reference", "optimizer"):
        assert estimate.get(use) == measured.get(use), use


@pytest.mark.slow
def test_estimate_with_autocast_accumulation_and_two_passes(home):
    more = ["training.groups=2", "training.accumulation=2", "training.mixed_precision=bf16", "training.two_pass=true"]
    config = config_of("shapes-sd", "lora", False, home, more)
    assert_close(MemoryEstimator("cpu")(config).stages["training"], tensors_of_a_step(prepared(config)))


@pytest.mark.slow
@pytest.mark.parametrize("trained", ["lora", "full"])
def test_estimate_of_a_middle_sized_network(home, trained):
    if not (home / "middle").is_dir():
        save_middle(home / "middle")
    config = config_of("middle", trained, True, home)
    assert_close(MemoryEstimator("cpu")(config).stages["training"], tensors_of_a_step(prepared(config)))


@pytest.mark.parametrize("trained", ["lora", "full"])
@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_a_weightless_model_has_the_shapes_of_the_real_one(family, trained):
    how = (
        {"lora": LoRASettings(rank=4)} if trained == "lora" else {"full": FullSettings(reference_dtype=torch.bfloat16)}
    )
    arguments: dict[str, Any] = {"dtype": torch.float32, **how}
    real = load_backbone(family, path_of(family), **arguments)
    real.hold("reference")
    real.hold("ema")
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    fake = load_weightless(family, path_of(family), mode, views=("reference", "ema"), **arguments)

    def shapes(modules: dict[str, torch.nn.Module]) -> dict[str, Any]:
        return {
            f"{part}.{name}": (each.shape, each.dtype, each.requires_grad)
            for part, module in modules.items()
            for name, each in [*module.named_parameters(), *module.named_buffers()]
        }

    assert shapes(parts_of(fake)) == shapes(parts_of(real))
    assert shapes(copies_of(fake)) == shapes(copies_of(real))
    with mode:
        fake_text = fake.text(["a", "b"])
    assert {name: leaf.shape for name, leaf in fake_text.items()} == {
        name: leaf.shape for name, leaf in real.text(["a", "b"]).items()
    }


@pytest.mark.parametrize(
    ("path", "family", "part", "millions"),
    [  # the sizes of the published files
        ("stable-diffusion-v1-5/stable-diffusion-v1-5", "sd", "unet", 859.5),
        ("stabilityai/stable-diffusion-xl-base-1.0", "sdxl", "unet", 2567.5),
        ("stabilityai/stable-diffusion-xl-base-1.0", "sdxl", "text_encoder_2", 694.7),
        ("stabilityai/stable-diffusion-3.5-medium", "sd3", "transformer", 2243.2),
        ("black-forest-labs/FLUX.1-dev", "flux", "transformer", 11901.4),
        ("black-forest-labs/FLUX.1-dev", "flux", "text_encoder_2", 4762.3),
    ],
)
def test_published_models_have_their_published_sizes(path, family, part, millions):
    assert path in PUBLISHED
    found = parts_of(load_weightless(family, path, FakeTensorMode(allow_non_fake_inputs=True)))[part]
    assert sum(each.numel() for each in found.parameters()) / 1e6 == pytest.approx(millions, rel=2e-3)


@pytest.mark.slow
def test_settings_that_change_the_estimate():
    estimator = MemoryEstimator("cuda")
    base = ("training.groups=4", "model.lora.rank=64")
    plain = total(estimator, *base)
    less = {
        "groups": ("training.groups=2", "model.lora.rank=64"),
        "two passes": (*base, "training.two_pass=true"),
        "checkpointing": (*base, "model.gradient_checkpointing=true"),
        "narrow": (*base, "model.precision=bf16", "training.mixed_precision=bf16"),
        "8 bit": (*base, "model.quantise=8bit"),
        "4 bit": (*base, "model.quantise=4bit"),
        "8-bit optimizer": (*base, "optimizer.name=adamw8bit"),
    }
    seen = {name: total(estimator, *overrides) for name, overrides in less.items()}
    assert all(each < plain for each in seen.values()), seen
    assert seen["4 bit"] < seen["8 bit"]
    more = {
        "accumulation": (*base, "training.accumulation=2"),
        "average": (*base, "training.ema_decay=0.9"),
        "processes": (*base, "training.processes=2"),
    }
    assert all(total(estimator, *overrides) > plain for overrides in more.values())


@pytest.mark.slow
def test_a_frozen_copy_may_be_narrow_or_elsewhere():
    estimator = MemoryEstimator("cuda")

    def reference(*overrides: str) -> int | None:
        config = quickstart("model={family: sd, path: 'zoo://shapes-sd', train: full}", "training.groups=1", *overrides)
        return estimator(config).stages["training"].get("reference")

    whole = reference()
    assert whole is not None
    assert reference("model.reference.precision=bf16") == whole / 2
    assert reference("model.reference.device=cpu") is None
    assert reference("training.reference_bank=1") is None
    assert reference("objective={name: sft}") is None


def test_autoencoder_stays_for_held_out_pictures_and_encoders_do_not():
    with_samples = load_config("quickstart/diffusion_dpo.yaml", ["training.groups=1"])
    estimate = MemoryEstimator("cuda")(with_samples)
    assert "autoencoder" in estimate.stages["training"] and "drawing" in estimate.stages
    assert "text encoders" in estimate.stages["caching"] and "text encoders" not in estimate.stages["training"]
    assert "frozen weights" not in estimate.stages["caching"], "the network comes to the card afterwards"
    assert set(MemoryEstimator("cuda")(quickstart("training.groups=1")).stages) == {"caching", "training"}


def test_cache_on_disk_of_a_record_and_a_prompt(tmp_path):
    estimate = MemoryEstimator("cuda")(quickstart("training.groups=1", f"data.path={tmp_path}"))
    assert estimate.latent_bytes == 2 * 2 * 4 * (4 * 8 * 8)  # two pictures, mean and log variance, float32
    assert estimate.text_bytes == 4 * 16 * 96


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["model.path=nobody/such-model"],
            "the settings of 'nobody/such-model' are not here and cannot be had",
        ),
        (["model.path=some.safetensors"], "model.config: some.safetensors is a single file"),
        (["model.path=black-forest-labs/FLUX.1-dev"], "is of family 'flux', and model.family is 'sd'"),
        (["model.path=zoo://shapes-sd3"], "needs StableDiffusionPipeline"),
        (["data.path=nowhere", "data.kind=groups"], "data.members: groups may have any number"),
    ],
)
def test_what_cannot_be_estimated_is_said_once(overrides, message, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConfigError, match=message):
        MemoryEstimator("cuda")(quickstart(*overrides))


@pytest.mark.slow
def test_proposals_come_in_the_order_of_their_cost_and_end_when_it_fits():
    estimator = MemoryEstimator("cpu")
    base = ["training.groups=8"]
    config = quickstart(*base)

    def apply(changes: dict[str, Any]) -> Any:
        return quickstart(*base, *(f"{path}={str(value).lower()}" for path, value in changes.items()))

    assert propose(config, estimator(config).needed(), estimator, apply) == []
    limit = estimator(apply({"model.gradient_checkpointing": True, "training.groups": 2})).needed()
    found = propose(config, limit, estimator, apply)
    assert found[0].changes == {"model.gradient_checkpointing": True}
    assert found[1].changes == {"training.groups": 2, "training.accumulation": 4}
    assert len(found) == 2 and found[1].estimate.needed() <= limit < found[0].estimate.needed()
    assert apply(found[0].changes | found[1].changes).groups_per_step == config.groups_per_step


@pytest.mark.slow
def test_proposals_end_where_nothing_is_left():
    estimator = MemoryEstimator("cpu")
    base = ["training.groups=2", "data.encode_batch=2"]
    config = quickstart(*base)
    found = propose(
        config,
        1,
        estimator,
        lambda changes: quickstart(*base, *(f"{path}={value}" for path, value in changes.items())),
    )
    assert found and found[-1].estimate.needed() > 1
    needs = [estimator(config).needed(), *(each.estimate.needed() for each in found)]
    assert needs == sorted(needs, reverse=True)


@pytest.mark.parametrize(
    ("buckets", "why"), [("null", "the same step"), ("{step: 8}", "other groups of a bucket meet")]
)
@pytest.mark.slow
def test_fewer_groups_at_a_time_are_another_order_with_buckets(tmp_path, buckets, why):
    base = [
        "training.groups=4",
        f"data.buckets={buckets}",
        f"data.path={tmp_path}",
        "model.gradient_checkpointing=true",
    ]
    estimator, config = MemoryEstimator("cpu"), quickstart(*base)

    def apply(changes: dict[str, Any]) -> Any:
        return quickstart(*base, *(f"{path}={str(value).lower()}" for path, value in changes.items()))

    limit = estimator(apply({"training.groups": 2, "training.accumulation": 2})).needed("training")
    found = [each for each in propose(config, limit, estimator, apply) if "training.groups" in each.changes]
    assert [each.changes["training.groups"] for each in found] == [2]
    assert "fewer groups at a time" in found[0].why and why in found[0].why


def test_members_are_counted_under_other_column_names(tmp_path, caplog):
    """As the run reads them: by data.columns, past bad rows, and no more of them than needed."""
    names = [f"{number}.png" for number in range(3)]
    good = {"prompt": "p", "images": names, "scores": [1.0, 0.0, 0.5]}
    listed = [{"prompt": "p", "images": names}, *({"id": f"r{number}"} | good for number in range(64)), {"prompt": "p"}]
    write_rows(tmp_path / "metadata.jsonl", listed)
    base = ["objective={name: gdro}", "data={path: zoo://shapes-sd/preferences, kind: groups}", f"data.path={tmp_path}"]
    config = quickstart(*base, "data.columns={items: images, rewards: scores}")
    assert members_of(config) == 3
    assert caplog.text.count("skipped: ") == 1, "the last row is beyond the first 64 records"
    with pytest.raises(ConfigError, match=r"data\.members: .* no record of .* can be read here"):
        members_of(quickstart(*base))


def test_a_change_that_moves_the_peak_elsewhere_is_not_proposed():
    """What is quantised cannot wait in main memory while the encoders have the card."""

    def estimate(config: Any) -> MemoryEstimate:
        quantised = config.model.quantise is not None
        uses = {"caching": 9 if quantised else 5, "training": 4 if quantised else 8}
        return MemoryEstimate({stage: {"weights": size} for stage, size in uses.items()}, 0, 0, on_card=False)

    def apply(changes: dict[str, Any]) -> Any:
        return quickstart(*(f"{path}={str(value).lower()}" for path, value in changes.items()))

    assert propose(quickstart(), 6, estimate, apply) == []


def test_an_online_run_is_not_estimated():
    with pytest.raises(ConfigError, match=r"^online: .*max_batch"):
        MemoryEstimator("cpu")(load_config("quickstart/nft.yaml"))
