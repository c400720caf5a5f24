"""`diffalign rewards`: the commands about rewards themselves. Each of them stands in a file of its own and joins here."""

from __future__ import annotations

import typer

from diffalign.cli.app import app

rewards_app = typer.Typer(help="Measure rewards, and make what they need.", no_args_is_help=True)
app.add_typer(rewards_app, name="rewards")
