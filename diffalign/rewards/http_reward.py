"""A reward that `diffalign rewards serve` serves, here or on another machine."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from diffalign.config.sample_rewards import HTTPParams
from diffalign.exceptions import ConfigError, DataError
from diffalign.rewards.http_call import Caller, NoAnswer
from diffalign.rewards.protocol import Judged, RewardSpec
from diffalign.rewards.remote_reward import RemoteReward, without_gradients
from diffalign.rewards.wire import pack_samples, read_judged, read_spec
from diffalign.rewards.wire_media import Packed

KIND = "application/x-diffalign"  # of a message of `wire`
_LARGEST = 2**26  # bytes of scores


def http_spec(served: RewardSpec | None = None) -> RewardSpec:
    """What the number means: what the server says it means."""
    if served is None:
        return RewardSpec(
            name="http",
            version="1",
            media="image",
            level="instance",
            unit="1",
            range=(float("-inf"), float("inf")),
            differentiable=False,
            licence="the served reward's own",
            needs=(),
            source="the served reward's own",
        )
    return without_gradients(replace(served, name="http", version=f"{served.name}-{served.version}"))


class HTTPReward(RemoteReward):
    """A served reward: its values and components, range, unit and needs are those of the reward that is served.

    The version is the served one's name and version. Samples of a request that fails are unscored, with the reason; if the
    server changes the version of its reward, so are all samples from then on.

    Example:
        `HTTPReward(HTTPParams(url="http://gpu7:8300", reward="clip", token="REWARDS_TOKEN"))(pictures, prompts)`
    """

    def __init__(self, params: HTTPParams) -> None:
        """Ask the server what it serves.

        Raises:
            ConfigError: it cannot be reached, serves no such reward, or wants another token.
        """
        self.params = params
        self._caller = Caller(params.timeout, params.retries, params.backoff, _LARGEST, params.token)
        self._caller.check("http.token")
        self._served, served, components, batch = self._ask_spec()
        self.spec, self._version, self.components = http_spec(served), served.version, components
        self.batch = min(params.batch, batch or params.batch)

    def _ask_spec(self) -> tuple[str, RewardSpec, tuple[str, ...], int | None]:
        url, asked = self.params.url, self.params.reward
        try:
            told = json.loads(self._caller.ask(f"{url}/spec"))["rewards"]
            names = list(told)
            if asked is None and len(names) != 1:
                raise ConfigError(f"http.reward: {url} serves {', '.join(names)}; say which")
            if asked is not None and asked not in names:
                raise ConfigError(f"http.reward: {url} serves {', '.join(names)}, not {asked!r}")
            name = names[0] if asked is None else asked
            return (name, *read_spec(told[name]))
        except NoAnswer as error:
            hint = (
                "set http.token to the name of the environment variable with its token"
                if error.status == 401
                else "start it there: diffalign rewards serve --reward NAME"
            )
            raise ConfigError(f"http.url: {url}: {error}; {hint}") from None
        except ConfigError:
            raise
        except (DataError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"http.url: {url} is no server of rewards ({type(error).__name__}: {error})") from None

    def ask(self, samples: Sequence[Packed]) -> list[Judged]:
        message = pack_samples(samples, rewards=[self._served])
        try:
            reply = self._caller.ask(f"{self.params.url}/score", message, KIND)
            version, judged = read_judged(reply, self._served, len(samples))
        except NoAnswer as error:
            return [f"{self.params.url}: {error}"] * len(samples)
        except DataError as error:
            return [f"{self.params.url} gave an answer that cannot be read: {error}"] * len(samples)
        if version != self._version:
            return [
                f"{self.params.url} serves {self._served} of version {version} now, and served {self._version} at first"
            ] * len(samples)
        return judged
