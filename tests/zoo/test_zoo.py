"""The shipped models: found by name, complete, and small."""

from __future__ import annotations

import pytest

from diffalign.exceptions import ConfigError
from diffalign.zoo import is_zoo, list_zoo, locate

MODELS = [model.name for model in list_zoo()]


def test_there_are_models():
    assert {"shapes-sd", "shapes-sd3", "emoji-sd3", "blocks-volume"} <= set(MODELS)


@pytest.mark.parametrize("name", MODELS)
def test_model_is_whole_and_small(name):
    folder = locate(f"zoo://{name}")
    assert (folder / "model_index.json").is_file()
    card = next(model.card for model in list_zoo() if model.name == name)
    if "preferences" in card:
        assert locate(f"zoo://{name}/preferences").stat().st_size < 5e6
    assert len(locate(f"zoo://{name}/held_out").read_text("utf-8").split("\n")) > 90
    assert card["family"] in ("sd", "sd3", "volume")
    assert card["summary"]


def test_whole_zoo_is_below_its_limit():
    files = [path for model in list_zoo() for path in model.folder.rglob("*") if path.is_file()]
    weights = [path for path in files if path.suffix == ".safetensors" and path.stem != "preferences"]
    assert sum(path.stat().st_size for path in weights) < 25e6
    assert sum(path.stat().st_size for path in files) < 35e6
    assert not [path.name for path in files if path.suffix in (".bin", ".pt", ".pkl", ".ckpt")]


def test_is_zoo():
    assert is_zoo("zoo://shapes-sd")
    assert not is_zoo("./zoo/shapes-sd")


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("zoo://shape-sd", "did you mean zoo://shapes-sd"),
        ("zoo://", "the zoo has blocks-volume, emoji-sd3, shapes-sd, shapes-sd3"),
        ("zoo://../config", "the zoo has blocks-volume, emoji-sd3, shapes-sd, shapes-sd3"),
        ("zoo://blocks-volume/preferences", "blocks-volume ships without preferences; it has held_out and prompts"),
        ("zoo://shapes-sd/prefs", "a zoo model has preferences, held_out, prompts, not 'prefs'"),
        ("zoo://shapes-sd/../../config/run.py", "a zoo model has"),
    ],
)
def test_wrong_name_says_what_there_is(path, says):
    with pytest.raises(ConfigError) as caught:
        locate(path)
    assert says in str(caught.value)
