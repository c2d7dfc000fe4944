"""Commands that bring things back, and that prove it: window, restore, drill, certificate."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import IO, Final

import click
import msgspec

from loyalty.backup.archives_cli import as_json
from loyalty.backup.certificate import check
from loyalty.backup.command import Tool
from loyalty.backup.errors import BackupError
from loyalty.backup.manifest import ClusterTime, read_catalogue
from loyalty.backup.plan import parse_moment, windows
from loyalty.backup.records import noted
from loyalty.backup.restore import STEPS, Progress
from loyalty.backup.restore import restore as restore_moment
from loyalty.backup.running import Tell
from loyalty.backup.target import open_target
from loyalty.infra.clock import system_clock

_SHOWN: Final = 3  # of many defects, in a message


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
@click.option("--without-users", is_flag=True, help="For a set whose administrator nobody has the password of.")
@as_json
@click.pass_obj
def restore(tool: Tool, to: ClusterTime | None, into: Path, without_users: bool, wants_json: bool) -> None:
    """Restore the database as of an instant into a folder.

    INTO/data is then a data folder that a mongod can begin a new replica set on, with any name and key file: users,
    indexes, validators and settings are in it. Give it to the user of mongod first.
    """
    result = restore_moment(tool.settings, to, into, forget_users=without_users, progress=step_progress(STEPS))
    if wants_json:
        click.echo(msgspec.json.encode(result))
        return
    for sentence in result.left_aside:
        click.echo(f"Left aside: {sentence}", err=True)
    click.echo(f"{result.data} holds the database as of {result.at}: {result.archive} and {result.slices} slices.")


@click.command()
@as_json
@click.pass_obj
def drill(tool: Tool, wants_json: bool) -> None:
    """Restore everything on this host, verify the ledger, and sign what was found. 1 when something is wrong."""
    from loyalty.backup.drill import STEPS as DRILL_STEPS  # it alone brings the ledger's verification and its jobs
    from loyalty.backup.drill import drill as run_drill

    settings = tool.settings
    target = open_target(settings)
    with noted(target, "drill") as outcome:
        found = run_drill(settings, target, now=system_clock(), progress=step_progress(DRILL_STEPS, outcome.progress))
        outcome.id = found.id
        if wants_json:
            click.echo(msgspec.json.encode(found))
        else:
            click.echo(
                f"{found.entries:,} entries of {found.members:,} members as of {found.restored_to}, "
                f"{found.seals:,} seals: {'the ledger is whole' if found.verified else 'THE LEDGER IS NOT WHOLE'}.\n"
                f"Restored, verified and writable in {found.rto_seconds:,.1f} s; "
                f"what was written in the last {found.rpo_seconds:,.1f} s would be lost."
            )
        if not found.ok:
            raise BackupError(
                " ".join(f"{defect}." for defect in found.defects[:_SHOWN]),
                f"All of it stands in certificates/{found.id}.json of {target.root}. Keep what is there, take a new "
                "full (loyalty-backup full), and compare with the live ledger: loyalty ledger verify",
            )


@click.command()
@click.argument("file", type=click.File("rb"))
@click.option("--public-key", metavar="HEX", help="The site's key; without it only consistent in itself.")
@click.pass_obj
def certificate(tool: Tool, file: IO[bytes], public_key: str | None) -> None:
    """Check the signature of a drill's certificate, and print what it says. Needs no settings."""
    del tool
    found = check(file.read(), public_key)
    click.echo(msgspec.json.format(msgspec.json.encode(found), indent=2))


def step_progress(steps: tuple[str, ...], tell: Tell | None = None) -> Progress:
    """A line for each step, and on a terminal how far it is. `tell` says it to `status`."""
    on_terminal = sys.stderr.isatty()
    last = 0.0

    def show(step: str, done: int, whole: int) -> None:
        nonlocal last
        if tell is not None:
            tell(done, whole, step=step)
        where = f"{steps.index(step) + 1}/{len(steps)} {step}"
        if not whole:
            click.echo(f"\n{where}" if on_terminal else where, err=True, nl=not on_terminal)
        elif on_terminal and time.monotonic() - last > 0.5:
            last = time.monotonic()
            click.echo(f"\r{where} {min(100, 100 * done // whole)} %", err=True, nl=False)

    return show


COMMANDS: tuple[click.Command, ...] = (window, restore, drill, certificate)
