"""Commands that bring things back: window, restore."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click
import msgspec

from loyalty.backup.archives_cli import as_json
from loyalty.backup.command import Tool
from loyalty.backup.manifest import ClusterTime, read_catalogue
from loyalty.backup.plan import parse_moment, windows
from loyalty.backup.restore import STEPS, Progress
from loyalty.backup.restore import restore as restore_moment


class Moment(click.ParamType):
    """A second with its zone, or `latest`."""

    name = "instant"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> ClusterTime | None:
        try:
            return parse_moment(str(value))
        except ValueError as error:
            self.fail(f"{value}: {error}. Say a second such as 2026-11-22T14:05:07Z, or latest.", param, ctx)


to_option = click.option(
    "--to",
    type=Moment(),
    required=True,
    metavar="INSTANT",
    help="A second such as 2026-11-22T14:05:07Z, with all that happened in it; or latest.",
)


@click.command()
@as_json
@click.pass_obj
def window(tool: Tool, wants_json: bool) -> None:
    """What can be restored: every second of these stretches, and `latest`. Ends with 1 when nothing can."""
    found = windows(read_catalogue(tool.target))
    if wants_json:
        seconds = [{"from": one.first_second.isoformat(), "to": one.last_second.isoformat()} for one in found]
        click.echo(msgspec.json.encode(seconds))
    else:
        click.echo("\n".join(map(str, found)) if found else "Nothing.")
    if not found:
        sys.exit(1)


@click.command()
@to_option
@click.option(
    "--into",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="A new folder. That of a restore which was killed is gone on with.",
)
@as_json
@click.pass_obj
def restore(tool: Tool, to: ClusterTime | None, into: Path, wants_json: bool) -> None:
    """Restore the database as of an instant into a folder.

    INTO/data is then a data folder that a mongod can begin a new replica set on, with any name and key file: users,
    indexes, validators and settings are in it. Give it to the user of mongod first.
    """
    result = restore_moment(tool.settings, to, into, progress=step_progress(STEPS))
    if wants_json:
        click.echo(msgspec.json.encode(result))
        return
    for sentence in result.left_aside:
        click.echo(f"Left aside: {sentence}", err=True)
    click.echo(f"{result.data} holds the database as of {result.at}: {result.archive} and {result.slices} slices.")


def step_progress(steps: tuple[str, ...]) -> Progress:
    """A line for each step, and on a terminal how far it is."""
    on_terminal = sys.stderr.isatty()
    last = 0.0

    def show(step: str, done: int, whole: int) -> None:
        nonlocal last
        where = f"{steps.index(step) + 1}/{len(steps)} {step}"
        if not whole:
            click.echo(f"\n{where}" if on_terminal else where, err=True, nl=not on_terminal)
        elif on_terminal and time.monotonic() - last > 0.5:
            last = time.monotonic()
            click.echo(f"\r{where} {min(100, 100 * done // whole)} %", err=True, nl=False)

    return show


COMMANDS: tuple[click.Command, ...] = (window, restore)
