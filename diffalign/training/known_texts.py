"""Text states of prompts that are drawn for, in the cache beside those of the records: no text encoder is needed then."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from diffalign.backbones import Backbone
from diffalign.config import RunConfig
from diffalign.data import Texts


def know_texts(config: RunConfig, backbone: Backbone, texts: Texts, prompts: Sequence[str]) -> None:
    """Encode what the cache lacks of them and of the empty prompt; from then on the backbone asks the cache first."""
    if not prompts:
        return
    wanted = {*prompts, ""}
    texts.fill(sorted(wanted), backbone.text, batch=8 * config.data.encode_batch)

    def known(asked: Sequence[str]) -> dict[str, Tensor] | None:
        return texts.stack(asked) if wanted.issuperset(asked) else None

    backbone.encoders.know_texts(known)
