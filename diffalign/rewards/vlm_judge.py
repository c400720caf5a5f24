"""A vision-language model as a judge, over an OpenAI-compatible endpoint."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

from PIL import Image

from diffalign.config.sample_rewards import VLMJudgeParams
from diffalign.exceptions import ConfigError, DataError
from diffalign.rewards.http_call import Caller, NoAnswer
from diffalign.rewards.pictures import Pixels
from diffalign.rewards.protocol import BatchReward, Judged, RewardSpec, Sample
from diffalign.rewards.vlm_styles import LIKELIEST, STYLES, Style, read_numbers, read_yes, shown

_LARGEST = 2**22  # bytes of an answer


def style_of(params: VLMJudgeParams) -> Style:
    """The style that the settings name, with what they change of it."""
    style = STYLES[params.style]
    return Style(params.question or style.question, params.pattern or style.pattern, params.scale or style.scale)


def vlm_judge_spec(params: VLMJudgeParams) -> RewardSpec:
    """What the number means; its version has all that is asked, and of whom, but not where."""
    style = style_of(params)
    told = (style.question, style.pattern, style.scale, params.side, params.max_tokens, params.model)
    return RewardSpec(
        name="vlm_judge",
        version=f"1-{params.style}-{params.model}-{hashlib.sha256(repr(told).encode()).hexdigest()[:12]}",
        media="image",
        level="instance",
        unit="1",
        range=(0.0, 1.0),
        differentiable=False,
        licence="the model's own",
        needs=("prompt",) if "{prompt}" in style.question else (),
        source='Wang et al. 2025, "Unified Reward Model for Multimodal Understanding and Generation"'
        if params.style.startswith("unified")
        else "diffalign's own question",
        deterministic=False,
    )


class VLMJudge(BatchReward):
    """What a vision-language model says of a picture.

    Styles in text: the model writes a score, whose scale (1 to 5) becomes 0 to 1; component `answer` is the score as it was
    told, and unified_reward_2 has its three as `alignment`, `coherence` and `style`. Style yes_no: the probability of yes
    among yes and no as first word; component `mass` is how probable the two are together.

    Range: [0, 1]. Higher is better. Differentiable: no. Temperature 0, which makes no endpoint repeatable
    that batches questions: the spec says so (`deterministic`). An answer that cannot be read, or none, leaves the
    sample unscored, with the reason.
    Source of unified_reward and unified_reward_2: Wang et al. 2025, "Unified Reward Model for Multimodal Understanding and
    Generation", and its code. Of yes_no: as in Flow-Factory's vllm_evaluate.py.

    Example:
        `VLMJudge(VLMJudgeParams(model="Qwen/Qwen3-VL-8B-Instruct", style="yes_no"))(pictures, prompts)`
    """

    def __init__(self, params: VLMJudgeParams) -> None:
        """Say whom to ask, and what; nobody is asked yet.

        Raises:
            ConfigError: the environment variable with the key is not set.
        """
        self.params, self.style, self.spec = params, style_of(params), vlm_judge_spec(params)
        named = tuple(re.compile(self.style.pattern).groupindex) if self.style.pattern else ()
        self.components = ("answer", *named) if self.style.pattern else ("mass",)
        self.base = params.url if urlsplit(params.url).path else f"{params.url}/v1"
        self._caller = Caller(params.timeout, params.retries, params.backoff, _LARGEST, params.api_key)
        self._caller.check("vlm_judge.api_key")

    def check_endpoint(self) -> None:
        """Whether the endpoint is there, takes the key and knows the model; one that lists no models is believed.

        Raises:
            ConfigError: it does not.
        """
        try:
            reply = self._caller.ask(f"{self.base}/models")
        except NoAnswer as error:
            if error.status in (401, 403):
                raise ConfigError(f"vlm_judge.api_key: {self.base} does not take it: {error}") from None
            if error.status is None:
                raise ConfigError(f"vlm_judge.url: {self.base}: {error}; start the endpoint first") from None
            return
        try:
            models = [str(each["id"]) for each in json.loads(reply)["data"]]
        except (ValueError, KeyError, TypeError):
            return
        if self.params.model not in models:
            raise ConfigError(f"vlm_judge.model: {self.base} has {', '.join(models[:20])}, not {self.params.model!r}")

    def judge_batch(self, media: Sequence[Pixels], samples: Sequence[Sample]) -> list[Judged]:
        threads = ThreadPoolExecutor(self.params.concurrency)
        try:
            return list(threads.map(self._judge, media, samples))
        except BaseException:  # such as Ctrl-C: what is under way is not tried again, and nothing new begins
            self._caller.stopped.set()
            threads.shutdown(cancel_futures=True)
            self._caller.stopped.clear()
            raise
        finally:
            threads.shutdown()

    def _judge(self, pixels: Pixels, sample: Sample) -> Judged:
        try:
            reply = self._caller.ask(f"{self.base}/chat/completions", self._question(pixels, sample.prompt))
            return self._read(reply)
        except NoAnswer as error:
            return f"{self.base}: {error}"
        except DataError as error:
            return str(error)

    def _question(self, pixels: Pixels, prompt: str) -> bytes:
        content = [
            {"type": "image_url", "image_url": {"url": self._picture(pixels)}},
            {"type": "text", "text": self.style.question.replace("{prompt}", prompt)},
        ]
        asked: dict[str, Any] = {
            "model": self.params.model,
            "messages": [{"role": "user", "content": content}],
            "temperature": 0,
        }
        if self.style.pattern is None:
            asked |= {"max_tokens": 1, "logprobs": True, "top_logprobs": LIKELIEST}
        else:
            asked["max_tokens"] = self.params.max_tokens
        return json.dumps(asked).encode()

    def _picture(self, pixels: Pixels) -> str:
        picture = Image.fromarray(pixels)
        if self.params.side is not None:
            ratio = self.params.side / max(picture.size)
            width, height = (max(1, round(each * ratio)) for each in picture.size)
            picture = picture.resize((width, height), Image.Resampling.BICUBIC)
        file = io.BytesIO()
        picture.save(file, format="PNG")
        return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"

    def _read(self, reply: bytes) -> Judged:
        """The judgement in a completion.

        Raises:
            DataError: there is none.
        """
        text = reply.decode(errors="replace")
        try:
            choice = json.loads(text)["choices"][0]
            if self.style.pattern is None:
                if not (choice.get("logprobs") or {}).get("content"):
                    raise DataError("the endpoint sent no log-probabilities, which yes_no needs; take style=rubric")
                return read_yes(choice["logprobs"]["content"][0]["top_logprobs"])
            answer, finished = choice["message"]["content"], choice.get("finish_reason")
            if answer is None or answer == "":
                raise DataError("the answer has no text")
            if not isinstance(answer, str):
                raise TypeError(f"its content is {type(answer).__name__}")
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"the answer is no completion ({type(error).__name__}: {error}): {shown(text)}") from None
        try:
            return read_numbers(answer, self.style.pattern, self.style.scale)
        except DataError as error:
            cut = f" (cut at max_tokens, {self.params.max_tokens})" if finished == "length" else ""
            raise DataError(f"{error}{cut}") from None


def load_vlm_judge(params: VLMJudgeParams) -> VLMJudge:
    """A judge whose endpoint is there."""
    judge = VLMJudge(params)
    judge.check_endpoint()
    return judge
