"""`diffalign rewards ...`: commands about rewards themselves."""

from __future__ import annotations

import typer

from diffalign.cli.app import app

rewards_app = typer.Typer(help="Serve rewards to other processes and machines.", no_args_is_help=True)
app.add_typer(rewards_app, name="rewards")
