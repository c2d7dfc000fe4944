"""Commands that keep what there is whole and within its room: files, verify, prune, copy, metrics."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

import click
import msgspec

from loyalty.backup import files as snapshots
from loyalty.backup import proof
from loyalty.backup.command import Tool
from loyalty.backup.comparing import Far
from loyalty.backup.copy import begin
from loyalty.backup.copy import copy as bring
from loyalty.backup.errors import BackupError
from loyalty.backup.files import FilesError, Source
from loyalty.backup.manifest import Archive, Catalogue, Target, read_catalogue
from loyalty.backup.metrics import as_text, write_metrics
from loyalty.backup.plan import parse_moment
from loyalty.backup.pruning import prune as remove
from loyalty.backup.records import noted
from loyalty.backup.retention import Decision, Policy, decide
from loyalty.backup.room import watch
from loyalty.backup.rsync import remote_shell
from loyalty.backup.settings import Settings, read_secret
from loyalty.backup.status import status
from loyalty.backup.target import hold, open_target, refuse_copy_on_same_disk
from loyalty.backup.verify import Result, Verifier, damaged, note, read_state, standing_problem, whole_snapshots
from loyalty.infra.clock import system_clock

_PATIENCE_S = 3600
_MEGABYTE = 1_000_000

as_json = click.option("--json", "wants_json", is_flag=True, help="For a machine.")


@click.command()
@click.option("--accept-loss", is_flag=True, help="The store has lost more than half of its files, and that is meant.")
@click.option(
    "--of",
    "moment",
    metavar="INSTANT",
    help="Take none. Say the folder of the snapshot that has the files of the database at that second, or at `latest`.",
)
@as_json
@click.pass_obj
def files(tool: Tool, accept_loss: bool, moment: str | None, wants_json: bool) -> None:
    """Take a snapshot of the file store."""
    if moment is not None:
        click.echo(tool.target.files / _snapshot_of(tool.target, moment).id)
        return
    settings = tool.settings
    target = open_target(settings)
    source, rate = _source(settings)
    passphrase = read_secret(settings.passphrase_file)
    with noted(target, "files") as outcome, hold(target, "The files", part="files", patience_s=_PATIENCE_S):
        snapshot, wrong = snapshots.take(
            target,
            source,
            now=system_clock(),
            bytes_per_second=rate,
            accept_loss=accept_loss,
            progress=sys.stderr.isatty() and not wants_json,
        )
        outcome.id, outcome.bytes = snapshot.id, snapshot.stored_bytes
        _refuse_wrong(target, snapshot, wrong)
        if not _is_in_second_copy(target, snapshot, passphrase):
            snapshots.copy_into_repository(target, snapshot, passphrase)
    if wants_json:
        click.echo(msgspec.json.encode(snapshot))
    else:
        click.echo(f"files {snapshot.id}: {snapshot.entries:,} files, {snapshot.stored_bytes / 1e6:,.1f} MB new")


@click.command()
@click.argument("id", required=False)
@click.option("--all", "everything", is_flag=True, help="Everything, not only the newest and a part of the rest.")
@as_json
@click.pass_obj
def verify(tool: Tool, id: str | None, everything: bool, wants_json: bool) -> None:
    """Read what is kept, as a restore would. ID: one chain or archive, as `list` names it."""
    settings = tool.settings
    target = open_target(settings)
    proof.watch(settings, target, now=system_clock())
    with noted(target, "verify"):
        verifier = Verifier.of(settings, target)
        with hold(target, "A verification", patience_s=_PATIENCE_S):
            catalogue = read_catalogue(target)
            if id is not None:
                results = _named(verifier, catalogue, id)
            elif everything:
                results = verifier.everything(catalogue)
            else:
                results = verifier.daily(catalogue, read_state(target), now=system_clock())
            read = list(_shown(results, wants_json))
        problems = note(target, read_catalogue(target), read, now=system_clock())
        if wants_json:
            click.echo(msgspec.json.encode([result._asdict() for result in chain(read, problems)]))
        problem = standing_problem(read_state(target))
        if problem is not None:
            raise problem


@click.command()
@click.option("--dry-run", is_flag=True, help="Say what would stay and go, and why. Remove nothing.")
@click.option("--damaged", "without_damaged", is_flag=True, help="Let also go what its verification found damaged.")
@as_json
@click.pass_obj
def prune(tool: Tool, dry_run: bool, without_damaged: bool, wants_json: bool) -> None:
    """Remove what need not be kept any longer, by the settings' retention."""
    settings = tool.settings
    target = open_target(settings)
    catalogue = read_catalogue(target)
    not_whole = damaged(read_state(target))
    decisions = decide(catalogue, _policy(settings), now=system_clock(), damaged=not_whole)
    if without_damaged:
        decisions = without(catalogue, decisions, not_whole)
    if wants_json:
        click.echo(msgspec.json.encode([decision._asdict() for decision in decisions]))
    elif dry_run:
        click.echo("\n".join(explained(decisions)))
    if dry_run:
        return
    with noted(target, "prune") as outcome:
        passphrase = read_secret(settings.passphrase_file)
        gone = remove(target, catalogue, decisions, passphrase)
        left = read_catalogue(target)
        note(target, left, (), now=system_clock())
        watch(settings, target, left, now=system_clock())
        outcome.bytes = 0
    if not wants_json:
        click.echo(f"{gone} of {len(decisions)} have gone.")


@click.command()
@click.option("--init", "is_new", is_flag=True, help="The folder there is a new one: make it a copy of this target.")
@as_json
@click.pass_obj
def copy(tool: Tool, is_new: bool, wants_json: bool) -> None:
    """Bring the second copy up to date (settings: second_copy)."""
    settings = tool.settings
    target = open_target(settings)
    far = _far(settings)
    with noted(target, "copy") as outcome:
        refuse_copy_on_same_disk(settings)
        if is_new:
            begin(target, far)
        copied = bring(
            target, far, _policy(settings), now=system_clock(), progress=sys.stderr.isatty() and not wants_json
        )
        outcome.bytes = copied.bytes
    if wants_json:
        click.echo(msgspec.json.encode(copied._asdict()))
    else:
        click.echo(
            f"{copied.archives} archives brought, {copied.gone} let go, {copied.compared} compared at {far.location}."
        )


@click.command()
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Replace this file, in the folder of node_exporter's text-file collector. Otherwise they are printed.",
)
@click.pass_obj
def metrics(tool: Tool, output: Path | None) -> None:
    """How the backups stand, for Prometheus."""
    if output is None:
        click.echo(as_text(status(tool.target, system_clock())), nl=False)
    else:
        write_metrics(tool.target, output)


COMMANDS: tuple[click.Command, ...] = (files, verify, prune, copy, metrics)


def without(catalogue: Catalogue, decisions: Iterable[Decision], damaged: Iterable[tuple[str, str]]) -> list[Decision]:
    """The decisions, but what is damaged goes. Of a chain all of it must be; and a good one must be left."""
    gone = set(damaged)
    broken = {one.id for one in catalogue.chains if all((archive.kind, archive.id) in gone for archive in one.archives)}
    if len(broken) == len(catalogue.chains):
        raise BackupError("There would be no chain left.", "Take a new full first: loyalty-backup full")
    gone |= {("chain", id) for id in broken}
    return [
        decision._replace(keep=False, reason="damaged, and told to go")
        if (decision.what, decision.id) in gone
        else decision
        for decision in decisions
    ]


def explained(decisions: Iterable[Decision]) -> Iterator[str]:
    """A line for each decision; slices of the log, of which there are many, by their reason."""
    decisions = list(decisions)
    for decision in decisions:
        if decision.what != "log":
            yield f"{'keep' if decision.keep else 'GO  '}  {decision.what:6} {decision.id:26} {decision.reason}"
    slices = Counter((decision.keep, decision.reason) for decision in decisions if decision.what == "log")
    for (keep, reason), count in sorted(slices.items(), reverse=True):
        yield f"{'keep' if keep else 'GO  '}  {'log':6} {f'{count:,} slices':26} {reason}"


def _policy(settings: Settings) -> Policy:
    kept = settings.retention
    return Policy(kept.days, kept.weeks, kept.months)


def _source(settings: Settings) -> tuple[Source, float]:
    store = settings.files
    if store is None:
        raise FilesError("The settings name no file store.", "Add a section [files] to them.")
    rate = store.megabytes_per_second * _MEGABYTE
    if store.path is not None:
        return Source(str(store.path)), rate
    shell = remote_shell(store.key_file, settings.ssh.known_hosts_file, port=store.ssh_port)
    return Source(f"{store.ssh}::storage", shell), rate


def _far(settings: Settings) -> Far:
    second = settings.second_copy
    if second is None:
        raise BackupError("The settings name no place for a second copy.", "Add a section [second_copy] to them.")
    rate = second.megabytes_per_second * _MEGABYTE
    shell = None if second.to.startswith("/") else remote_shell(second.key_file, second.known_hosts_file)
    return Far(second.to, shell, rate)


def _snapshot_of(target: Target, text: str) -> Archive:
    try:
        moment = parse_moment(text)
    except ValueError as error:
        raise click.BadParameter(f"{text}: {error}.") from None
    found = snapshots.snapshot_for(whole_snapshots(target, read_catalogue(target)), moment)
    if found is None:
        raise FilesError("There is no snapshot of the files.", "Take one: loyalty-backup files")
    return found


def _refuse_wrong(target: Target, snapshot: Archive, wrong: tuple[str, ...]) -> None:
    """A store whose contents changed: the snapshot is evidence, and no restore may use it."""
    if not wrong:
        return
    problem = f"{len(wrong):,} contents of the file store are not what their names say, such as {wrong[0]}"
    note(target, read_catalogue(target), [Result("files", snapshot.id, problem)], now=system_clock())
    raise FilesError(
        f"{problem}: its disk is broken, or somebody changed them.",
        f"Earlier snapshots have them as they were: {target.files}. Find out which it is before anything else: "
        "docs/operator/recovery.md, ransomware.",
    )


def _is_in_second_copy(target: Target, snapshot: Archive, passphrase: str) -> bool:
    """Whether one of the same day is: every file is read for it, so once a day is enough."""
    repository = snapshots.files_repository(target, passphrase)
    day = snapshot.id[:8]
    return repository.path.exists() and any(name.startswith(day) for name in repository.archives())


def _named(verifier: Verifier, catalogue: Catalogue, id: str) -> Iterator[Result]:
    for one in catalogue.chains:
        if one.id == id:
            return verifier.chain(one)
    everything = (*catalogue.physical, *catalogue.slices, *catalogue.dumps, *catalogue.files, *catalogue.site)
    found = [archive for archive in everything if archive.id == id]
    if not found:
        raise BackupError(f"There is nothing named {id}.", "Type: loyalty-backup list")
    return (verifier.archive(archive, catalogue.slices) for archive in found)


def _shown(results: Iterable[Result], wants_json: bool) -> Iterator[Result]:
    """The results, each said as it comes; slices of the log, of which there are many, only when they are not whole."""
    for result in results:
        if not wants_json and (result.problem or result.kind != "log"):
            click.echo(f"{result.kind:12} {result.id:36} {result.problem or 'whole'}")
        yield result
