"""`diffalign rewards serve`: rewards over HTTP."""

from __future__ import annotations

import logging
import os
import signal
import threading
from typing import Annotated

import typer

from diffalign.cli.rewards_app import rewards_app
from diffalign.exceptions import ConfigError

log = logging.getLogger(__name__)


@rewards_app.command()
def serve(
    rewards: Annotated[
        list[str], typer.Option("--reward", "-r", help="NAME[:option=value,...], as `score` takes it. Repeatable.")
    ],
    host: Annotated[
        str, typer.Option("--host", help="The address to listen at; 0.0.0.0 is open to all who can reach this machine.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 is any that is free.")] = 8300,
    token_env: Annotated[
        str | None,
        typer.Option("--token-env", help="The environment variable with a token that clients have to show."),
    ] = None,
    megabytes: Annotated[int, typer.Option("--largest", min=1, help="Megabytes that one request may have.")] = 256,
) -> None:
    """Serve rewards over HTTP, for the reward `http` on other machines or in other environments.

    The address is the only line of stdout. Ctrl-C ends it.
    """
    token = None
    if token_env is not None:
        token = os.environ.get(token_env, "").strip()
        if not token:
            raise ConfigError(f"--token-env: the environment variable {token_env} is not set; export it first")
    from diffalign.rewards import RewardServer, reward_of_text, rewards_by_name

    made = rewards_by_name(rewards, reward_of_text)
    server = RewardServer(made, host=host, port=port, token=token, largest=megabytes * 10**6)
    print(server.url, flush=True)
    log.info("serving %s; Ctrl-C ends it", ", ".join(made))

    def end(*_: object) -> None:  # from another thread: it waits for the loop that is interrupted here
        threading.Thread(target=server.shutdown, daemon=True).start()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    try:
        server.serve_forever(poll_interval=0.2)
    finally:
        server.server_close()
