"""The commands of the backup host: thin, each calls a function of the module that does the work.

Each group of commands stands in a module of its own, named `<something>_cli`, and is added here. Exit codes: 0 done,
1 not done or found wrong, 2 the command or the settings are wrong, 3 not done because the database is gone.
"""

from __future__ import annotations

from pathlib import Path

import click

from loyalty import __version__
from loyalty.backup import archives_cli, inspect_cli, keeping_cli, restore_cli
from loyalty.backup.command import Commands, Tool
from loyalty.backup.settings import SETTINGS


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
@click.option(
    "--settings",
    type=click.Path(dir_okay=False, path_type=Path),
    default=SETTINGS,
    show_default=True,
    envvar="LOYALTY_BACKUP_SETTINGS",
    help="The settings.",
)
@click.pass_context
def main(ctx: click.Context, settings: Path) -> None:
    """Take, keep and prove the backups of a site, and restore it."""
    ctx.obj = Tool(settings)


for commands in (archives_cli.COMMANDS, keeping_cli.COMMANDS, restore_cli.COMMANDS, inspect_cli.COMMANDS):
    for command in commands:
        main.add_command(command)
