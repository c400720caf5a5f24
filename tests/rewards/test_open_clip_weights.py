"""Weights in open_clip's layout give open_clip's vectors: against a small CLIP written as open_clip writes it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from diffalign.exceptions import ConfigError
from diffalign.rewards import load_reward
from diffalign.rewards.clip_towers import ClipTowers, cleaned_text
from diffalign.rewards.open_clip_weights import clip_of_open_clip
from tests.rewards.test_clip import pictures
from tests.rewards.tiny_clip import SIDE, TOKENS, tiny_folder, tiny_tokenizer
from tests.rewards.tiny_open_clip import END, OpenClip, open_clip_file, tiny_open_clip


@pytest.fixture(scope="module")
def theirs() -> OpenClip:
    return tiny_open_clip()


def test_pictures_and_texts_have_the_same_vectors(theirs):
    ours = clip_of_open_clip(theirs.state_dict(), end_token=END).eval()
    squares = torch.randn(3, 3, SIDE, SIDE)
    words = torch.tensor(
        [[52, 3, 9, 53, *[0] * (TOKENS - 4)], [52, *[7] * (TOKENS - 2), 53]]
    )  # open_clip fills up with zeros
    with torch.no_grad():
        seen, read = ours.get_image_features(pixel_values=squares), ours.get_text_features(input_ids=words)
        seen, read = (each if isinstance(each, Tensor) else each.pooler_output for each in (seen, read))
        torch.testing.assert_close(seen, theirs.visual(squares), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(read, theirs.encode_text(words), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("form", ["pt", "safetensors"])
def test_hps_scores_with_the_authors_file(theirs, form, tmp_path):
    file = tmp_path / f"HPS_v2.1_compressed.{form}"
    state = {name: tensor.contiguous() for name, tensor in theirs.state_dict().items()}
    if form == "pt":
        torch.save({"epoch": 1, "state_dict": state}, file)
    else:
        save_file(state, file)
    reward = load_reward("hps", weights=str(file), tokenizer=tiny_folder())
    prompts = ["a red cat", "blue", "ten words", "a fox"]
    towers = ClipTowers(clip_of_open_clip(state, end_token=END), tiny_tokenizer(), fit="pad", clean=True)
    expected = (towers.pictures([np.asarray(each) for each in pictures()]) * towers.texts(prompts)).sum(-1)
    torch.testing.assert_close(reward(pictures(), prompts), expected)
    direct = (
        F.normalize(theirs.visual(normalised(pictures()[0])), dim=-1)
        @ F.normalize(
            theirs.encode_text(
                torch.tensor([tiny_tokenizer()("a red cat", padding="max_length", max_length=TOKENS)["input_ids"]])
            ),
            dim=-1,
        ).T
    )
    assert reward(pictures()[:1], prompts[:1]).item() == pytest.approx(direct.item(), abs=1e-4)
    assert "2.1" in reward.spec.version


def test_clip_scores_with_a_file_of_open_clip_s(theirs):
    file, prompt = open_clip_file(), "a red cat"
    reward = load_reward("clip", weights=file, model=tiny_folder())
    words = tiny_tokenizer()(prompt, padding="max_length", max_length=TOKENS)["input_ids"]
    seen = theirs.visual(normalised(pictures()[0]))
    cosine = F.cosine_similarity(seen, theirs.encode_text(torch.tensor([words])))
    assert reward(pictures()[:1], [prompt]).item() == pytest.approx(cosine.item(), abs=1e-4)
    quick = load_reward("clip", weights=file, model=tiny_folder(), activation="quick_gelu")
    assert quick.spec.version != reward.spec.version
    assert abs(quick(pictures()[:1], [prompt]).item() - cosine.item()) > 1e-4
    with pytest.raises(ConfigError, match="activation: is of weights"):
        load_reward("clip", model=tiny_folder(), activation="quick_gelu")


def normalised(picture) -> Tensor:
    """32x32 already: only the constants."""
    pixels = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)[None].float() / 255
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    return (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


def test_files_that_are_none_are_refused(theirs, tmp_path):
    state = dict(theirs.state_dict())
    with pytest.raises(ConfigError, match=r"'visual.head.weight' and 0 more do not fit"):
        clip_of_open_clip(state | {"visual.head.weight": torch.zeros(2)}, end_token=END)
    del state["ln_final.bias"]
    with pytest.raises(ConfigError, match=r"'text_model.final_layer_norm.bias' and 0 more do not fit"):
        clip_of_open_clip(state, end_token=END)
    with pytest.raises(ConfigError, match=r"weights: not those of open_clip's CLIP: "):
        clip_of_open_clip({"weight": torch.zeros(2)}, end_token=END)
    text = tmp_path / "HPS_v2.1_compressed.pt"
    text.write_text("<html>not found</html>")
    with pytest.raises(ConfigError, match=f"hps.weights: cannot read '{text}' as tensors"):
        load_reward("hps", weights=str(text), tokenizer=tiny_folder())


def test_texts_are_read_as_open_clip_reads_them(theirs):
    """Its `basic_clean` and `whitespace_clean`: ftfy, HTML's escapes twice over, and single spaces."""
    assert cleaned_text("  a cat\u2019s \u201cred\u201d  hat &amp;amp; a dog\n") == 'a cat\'s "red" hat & a dog'
    assert cleaned_text("caf\u00c3\u00a9") == "caf\u00e9"  # UTF-8 that was read as Latin-1
    towers = [
        ClipTowers(clip_of_open_clip(theirs.state_dict(), end_token=END), tiny_tokenizer(), clean=clean)
        for clean in (True, False)
    ]
    curly, plain = "the cat\u2019s red &amp; blue", "the cat's red & blue"
    assert towers[0].version != towers[1].version
    assert torch.equal(towers[0].tokens_of([curly]), towers[0].tokens_of([plain]))
    assert not torch.equal(towers[1].tokens_of([curly]), towers[1].tokens_of([plain]))
    assert towers[0].tokens_cut(curly) == towers[0].tokens_cut(plain)


class Foreign:
    def __reduce__(self):
        return (print, ("code of the file ran",))


def test_code_in_a_file_is_not_run(tmp_path, capsys):
    file = tmp_path / "HPS_v2.1_compressed.pt"
    torch.save({"state_dict": Foreign()}, file)
    with pytest.raises(ConfigError, match="as tensors"):
        load_reward("hps", weights=str(file), tokenizer=tiny_folder())
    assert "code of the file" not in capsys.readouterr().out
