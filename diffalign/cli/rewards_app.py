"""`diffalign rewards ...`: commands about rewards themselves. Each stands in a file of its own and joins here."""

from __future__ import annotations

from diffalign.cli.app import app
from diffalign.cli.single_options import CommandLine

rewards_app = CommandLine(
    help="Reference sets, self-tests, measurements, weights and servers of rewards. To score media: diffalign score.",
    no_args_is_help=True,
)
app.add_typer(rewards_app, name="rewards")
