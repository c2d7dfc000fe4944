"""Commands that fill the target, and that say what it holds: init, full, incremental, log, list, status."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
import msgspec

from loyalty.backup import physical
from loyalty.backup.command import Tool
from loyalty.backup.following import archive_what_is_new, follow
from loyalty.backup.manifest import Archive, read_catalogue
from loyalty.backup.records import Outcome, noted
from loyalty.backup.settings import Settings
from loyalty.backup.source import Progress
from loyalty.backup.status import status as status_of
from loyalty.backup.target import initialise, open_target
from loyalty.backup.verify import read_on_arrival
from loyalty.infra.clock import system_clock

as_json = click.option("--json", "wants_json", is_flag=True, help="For a machine.")


@click.command()
@click.pass_obj
def init(tool: Tool) -> None:
    """Make the folder a backup target. What it holds already is kept."""
    target = initialise(tool.settings)
    click.echo(f"{target.root} keeps the backups of {tool.settings.site}.")


@click.command()
@click.option("--accept-loss", is_flag=True, help="The ledger has lost more than half of itself, and that is meant.")
@click.option("--no-throttle", is_flag=True, help="As fast as it goes, however long requests have to wait.")
@as_json
@click.pass_obj
def full(tool: Tool, accept_loss: bool, no_throttle: bool, wants_json: bool) -> None:
    """Copy the whole database, as the beginning of a new chain."""
    settings = tool.settings.without_throttle() if no_throttle else tool.settings
    _take(settings, "full", partial(physical.full, accept_loss=accept_loss), wants_json)


@click.command()
@as_json
@click.pass_obj
def incremental(tool: Tool, wants_json: bool) -> None:
    """Copy what changed in the database since the last copy."""
    _take(tool.settings, "incremental", physical.incremental, wants_json)


@click.command()
@click.option("--follow", "goes_on", is_flag=True, help="Go on until told to stop (SIGTERM).")
@click.option(
    "--metrics",
    "metrics_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="With --follow: replace this file each minute, as `metrics --output` does.",
)
@as_json
@click.pass_obj
def log(tool: Tool, goes_on: bool, metrics_file: Path | None, wants_json: bool) -> None:
    """Archive what is new in the database's log."""
    settings = tool.settings
    target = open_target(settings)
    if goes_on:
        follow(settings, target, metrics_file=metrics_file)
    else:
        _show(archive_what_is_new(settings, target), wants_json)


@click.command("list")
@as_json
@click.pass_obj
def list_archives(tool: Tool, wants_json: bool) -> None:
    """Every archive that the target holds."""
    catalogue = read_catalogue(tool.target)
    archives = [*catalogue.physical, *catalogue.slices, *catalogue.dumps, *catalogue.files, *catalogue.site]
    _show(sorted(archives, key=lambda archive: archive.to), wants_json)
    for sentence in catalogue.damaged:
        click.echo(sentence, err=True)


@click.command()
@as_json
@click.pass_obj
def status(tool: Tool, wants_json: bool) -> None:
    """How the backups stand. Ends with 1 while an alarm does."""
    found = status_of(tool.target, system_clock())
    if wants_json:
        click.echo(json.dumps(found, default=str))
    else:
        for run in found["running"]:
            click.echo(f"{'runs now':12} {run['kind']} since {_when(run['began'])}{_how_far(run)}")
        for kind, newest in found["newest"].items():
            click.echo(f"{kind:12} {_told(newest) if newest else 'none'}")
        for span in found["log"]:
            click.echo(f"every second {span['from']:%F %T} to {span['to']:%F %T} UTC, {span['slices']} slices")
        full_at = found["forecast"]["full_at"]
        click.echo(
            f"{'free':12} {found['free_bytes'] / 1e9:.1f} GB"
            + (f", full on {full_at:%F} if it goes on so" if full_at else "")
        )
        for kind, at in sorted(found["verified"].items()):
            click.echo(f"{'verified':12} {kind} {at}")
        click.echo(f"{'proven':12} {_proven(found['proven'])}")
        for run in found["recent"]:
            click.echo(f"{'run':12} {_when(run['began'])}  {run['kind']:12} {_outcome(run)}")
        for sentence in [*found["alarms"].values(), *found["damaged"]]:
            click.echo(f"ALARM: {sentence}")
    if found["alarms"] or found["damaged"]:
        sys.exit(1)


COMMANDS = (init, full, incremental, log, list_archives, status)


def _take(settings: Settings, kind: str, act: Callable[..., Archive], wants_json: bool) -> None:
    target = open_target(settings)
    with noted(target, kind) as outcome:
        archive = act(settings, target, progress=_progress(outcome))
        read_on_arrival(settings, target, [archive])
        outcome.id = archive.id
        outcome.bytes = archive.stored_bytes
    _show([archive], wants_json)


def _show(archives: Sequence[Archive], wants_json: bool) -> None:
    if wants_json:
        click.echo(msgspec.json.encode(archives))
        return
    for archive in archives:
        sizes = f"{archive.bytes / 1e6:,.1f} MB, {archive.stored_bytes / 1e6:,.1f} MB stored"
        locked = f", locked {archive.locked_s:.2f} s" if archive.is_physical else ""
        click.echo(f"{archive.kind:12} {archive.id:36} {sizes}{locked}")


def _progress(outcome: Outcome) -> Progress:
    """For `status`, and a line each few seconds: on a terminal one that changes, in a journal few that stay."""
    on_terminal = sys.stderr.isatty()
    pause = 0.5 if on_terminal else 30
    last = time.monotonic()

    def show(done: int, whole: int) -> None:
        nonlocal last
        outcome.progress(done, whole)
        if time.monotonic() - last < pause and not (on_terminal and done == whole):
            return
        last = time.monotonic()
        line = _megabytes_of(done, whole)
        click.echo(f"\r{line}" if on_terminal else line, err=True, nl=not on_terminal or done == whole)

    return show


def _proven(drill: dict[str, Any] | None) -> str:
    if drill is None:
        return "none"
    return (
        f"{_age(drill['age_s'])} ago, {drill['id']}, in {drill['rto_seconds']:,.0f} s; "
        f"the last {drill['rpo_seconds']:,.0f} s would have been lost"
    )


def _told(newest: dict[str, Any]) -> str:
    locked = f", locked {newest['locked_s']:.2f} s" if newest["locked_s"] else ""
    return f"{_age(newest['age_s'])} ago, {newest['id']}{locked}"


def _megabytes_of(done: int, whole: int) -> str:
    return f"{done / 1e6:,.0f} of {whole / 1e6:,.0f} MB ({100 * done // max(whole, 1)} %)"


def _how_far(run: dict[str, Any]) -> str:
    """In bytes where the run has no steps, else which it is at; nothing where nobody knows."""
    if run["step"]:
        return f": {run['step']}" + (f", {100 * run['done'] // run['whole']} %" if run["whole"] else "")
    return f": {_megabytes_of(run['done'], run['whole'])}" if run["whole"] else ""


def _outcome(run: dict[str, Any]) -> str:
    result = f"{run['bytes'] / 1e6:12,.1f} MB" if run["ok"] else f"FAILED: {run['error']}"
    return f"{_age(run['took_s']):>8}  {result}"


def _when(at: str) -> str:
    return at.replace("T", " ").replace("Z", " UTC")


def _age(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
