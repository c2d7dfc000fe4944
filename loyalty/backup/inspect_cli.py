"""Commands for the documents themselves: dump, load, export, extract, beside."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import click
import msgspec

from loyalty.backup import extract as parts
from loyalty.backup.archives_cli import as_json
from loyalty.backup.command import Tool
from loyalty.backup.dump import Dumped, NotKept, dump_from_archives
from loyalty.backup.dump import dump as take
from loyalty.backup.dump import load as load_into
from loyalty.backup.errors import BackupError
from loyalty.backup.export import export as as_mongodump
from loyalty.backup.manifest import Archive, ClusterTime, Target, read_catalogue
from loyalty.backup.raw import documents
from loyalty.backup.records import noted
from loyalty.backup.restore import STEPS
from loyalty.backup.restore_cli import Moment, step_progress
from loyalty.backup.running import Tell
from loyalty.backup.settings import Settings, read_secret
from loyalty.backup.target import open_target
from loyalty.backup.verify import read_on_arrival


@click.command()
@click.option("--from-archives", is_flag=True, help="Restore the newest state on this host and dump that.")
@as_json
@click.pass_obj
def dump(tool: Tool, from_archives: bool, wants_json: bool) -> None:
    """Write every document, as of one moment, in a format that does not depend on MongoDB's files.

    From a server; from the archives where no server keeps a moment for as long as that takes (5 minutes).
    """
    settings = tool.settings
    target = open_target(settings)
    with noted(target, "dump") as outcome:
        made = (_taken_from_archives if from_archives else _taken)(settings, target, outcome.progress)
        read_on_arrival(settings, target, [made.archive])
        outcome.id = made.archive.id
        outcome.bytes = made.archive.stored_bytes
    for name in made.left_out:
        click.echo(f"{name} is capped and was left out.", err=True)
    if wants_json:
        click.echo(msgspec.json.encode(made.archive))
    else:
        click.echo(f"{sum(made.archive.counts.values()):,} documents as of {made.archive.at}: {made.archive.id}")


@click.command()
@click.argument("dump_id", metavar="DUMP")
@click.option("--into", type=click.Path(file_okay=False, path_type=Path), required=True, help="A new folder.")
@click.pass_obj
def load(tool: Tool, dump_id: str, into: Path) -> None:
    """Make a dump (or `latest`) a data folder, as `restore` makes one of archives."""
    archive = _dump(tool.target, dump_id)
    data = load_into(tool.settings, tool.target, archive, into, progress=step_progress(("load",)))
    click.echo(f"{data} holds the database as of {archive.at}.")


@click.command()
@click.argument("dump_id", metavar="DUMP")
@click.option("--into", type=click.Path(file_okay=False, path_type=Path), required=True, help="A new folder.")
@click.pass_obj
def export(tool: Tool, dump_id: str, into: Path) -> None:
    """Write a dump (or `latest`) as mongodump does, in clear, for mongorestore and bsondump."""
    archive = _dump(tool.target, dump_id)
    count = as_mongodump(tool.settings, tool.target, archive, into, progress=step_progress(("export",)))
    click.echo(f"{count:,} documents as of {archive.at}. Restore them with: mongorestore {into}")


@click.command()
@click.option("--collection", metavar="NAME", help="All of this collection.")
@click.option("--member", metavar="ID", help="The ledger's entries of this member.")
@click.option("--to", type=Moment(), metavar="INSTANT", help="As of this second, or latest: restores for it.")
@click.option("--restored", type=click.Path(exists=True, file_okay=False, path_type=Path), help="From this restore.")
@click.option("--dump", "dump_id", metavar="DUMP", help="From this dump, or latest.")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="A new file: BSON when it ends with .bson, else JSON lines.",
)
@click.pass_context
def extract(
    ctx: click.Context,
    collection: str | None,
    member: str | None,
    to: ClusterTime | None,
    restored: Path | None,
    dump_id: str | None,
    out: Path,
) -> None:
    """Write a part of an earlier state to a file, to look at or to put beside the live data."""
    tool: Tool = ctx.obj
    by_moment = ctx.get_parameter_source("to") is click.core.ParameterSource.COMMANDLINE
    if bool(collection) == bool(member):
        raise click.UsageError("Say either --collection or --member.")
    if [by_moment, bool(restored), bool(dump_id)].count(True) != 1:
        raise click.UsageError("Say one of --to, --restored and --dump.")
    part = parts.chain_of(member) if member else parts.Part(collection or "")
    settings = tool.settings
    with ExitStack() as stack:
        if restored:
            found = stack.enter_context(parts.from_restored(settings, restored, part))
        elif dump_id:
            found = parts.from_dump(settings, tool.target, _dump(tool.target, dump_id), part)
        else:
            found = stack.enter_context(
                parts.from_archives(settings, tool.target, to, part, progress=step_progress(STEPS))
            )
        count = parts.write(found, out)
    click.echo(f"{count:,} documents in {out}.")


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--collection", required=True, metavar="NAME", help="A new one, such as restored_ledger.")
@click.option(
    "--uri-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    required=True,
    help="File with the connection string of a user who may make collections.",
)
@click.pass_obj
def beside(tool: Tool, file: Path, collection: str, uri_file: Path) -> None:
    """Put what `extract` wrote as BSON into a collection of its own beside the live data."""
    with file.open("rb") as opened:
        found = documents(iter(lambda: opened.read(1 << 20), b""))
        count = parts.put_beside(found, read_secret(uri_file), tool.settings.database.name, collection)
    click.echo(f"{count:,} documents in {collection}. Drop it when you have seen enough.")


COMMANDS: tuple[click.Command, ...] = (dump, load, export, extract, beside)


def _taken(settings: Settings, target: Target, tell: Tell) -> Dumped:
    try:
        return take(settings, target, progress=step_progress(("dump",), tell))
    except NotKept as error:
        click.echo(f"{error.problem} It is taken from the archives instead.", err=True)
    return _taken_from_archives(settings, target, tell)


def _taken_from_archives(settings: Settings, target: Target, tell: Tell) -> Dumped:
    return dump_from_archives(settings, target, progress=step_progress((*STEPS, "dump"), tell))


def _dump(target: Target, id: str) -> Archive:
    dumps = read_catalogue(target).dumps
    found = dumps[-1:] if id == "latest" else [one for one in dumps if one.id == id]
    if not found:
        raise BackupError(f"There is no dump {id}.", f"There are: {', '.join(one.id for one in dumps) or 'none'}.")
    return found[0]
