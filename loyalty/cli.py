"""The operator's commands: thin, each calls the function that the HTTP API or the jobs call too.

Settings come from the environment and the credentials as for the server; secrets never from arguments, which
every user of the machine can read. Exit codes: 0 done, 1 refused or found wrong, 2 the command or the
configuration is wrong.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import IO, TYPE_CHECKING, Any

import click
import orjson
import structlog
from pymongo.errors import OperationFailure, PyMongoError

from loyalty import __version__
from loyalty.config import Settings, SettingsError, load_settings
from loyalty.infra.clock import system_clock
from loyalty.infra.problems import Problem

if TYPE_CHECKING:
    from pydantic import ValidationError

    from loyalty.configuration.differences import Difference
    from loyalty.configuration.model import Configuration
    from loyalty.infra.mongo import Mongo


class Failed(click.ClickException):
    """The command did not do what was asked; the message says why and what to do."""

    exit_code = 1


class Tool:
    """What commands share: the settings, read on first use, and one connection."""

    def __init__(self) -> None:
        self._settings: Settings | None = None

    @property
    def settings(self) -> Settings:
        """The settings; a mistake in them ends the command with 2."""
        if self._settings is None:
            try:
                self._settings = load_settings()
            except SettingsError as error:
                click.echo(str(error), err=True)
                sys.exit(2)
        return self._settings

    def database(self) -> Mongo:
        """A connection for scans that may take minutes."""
        from loyalty.infra.mongo import connect

        return connect(
            self.settings.mongo_uri.get_secret_value(),
            self.settings.mongo_database,
            serves_requests=False,
            pool=8,
        )


class Commands(click.Group):
    """A group whose commands end with one sentence, not a traceback, when the database or a rule says no."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except Problem as problem:
            raise Failed(_sentences(problem)) from None
        except OperationFailure as error:
            reason = (error.details or {}).get("errmsg") or str(error)
            if error.code in (13, 18):
                remedy = "The user in LOYALTY_MONGO_URI may not do this; `migrate` needs the migrator's URI."
            else:
                remedy = "See the log of mongod."
            raise Failed(f"MongoDB refused: {reason}\n{remedy}") from None
        except PyMongoError as error:
            raise Failed(
                f"MongoDB does not answer: {str(error).split(' (configured')[0]}\n"
                "Check that mongod runs (systemctl status mongod) and that LOYALTY_MONGO_URI names it."
            ) from None


def _sentences(problem: Problem) -> str:
    lines = [f"{problem.title}. {problem.detail}"]
    lines += [f"  {error.get('pointer', '')}: {error['detail']}" for error in problem.extra.get("errors", [])]
    return "\n".join(lines)


def _defects(error: ValidationError) -> str:
    return "\n".join(f"{defect['loc'][0]}: {defect['msg']}" for defect in error.errors(include_url=False))


def _print_json(value: object) -> None:
    click.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_UTC_Z).decode())


def _progress(wanted: bool | None, total: int) -> Callable[[int], None]:
    """Keeps a line on stderr up to date with the number of entries done; silent where nobody watches."""
    terminal = sys.stderr.isatty()
    if wanted is False or (wanted is None and not terminal):
        return lambda done: None

    def show(done: int) -> None:
        percent = min(100, 100 * done // max(total, 1))
        line = f"{done:,} of about {total:,} entries ({percent} %)"
        click.echo(f"\r{line}" if terminal else line, nl=not terminal or done >= total, err=True)

    return show


_progress_option = click.option(
    "--progress/--no-progress", default=None, help="Show progress on stderr. Default: when it is a terminal."
)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="loyalty")
@click.pass_context
def main(ctx: click.Context) -> None:
    """Operate the loyalty application of this server.

    Settings are read from LOYALTY_* variables and from $CREDENTIALS_DIRECTORY, as the server reads them. On a
    server use the command `loyalty`, which sets both up.

    \b
    A new installation:
      loyalty migrate                                    collections and indexes (migrator's URI)
      loyalty program create cdnow --name "CDNOW" --currency USD --timezone UTC
      loyalty key create cdnow --name till --scope events:write --scope members:read
    \b
    Configuration as code:
      loyalty program export sandbox > program.yaml      settings, rules, tiers, rewards
      loyalty program plan cdnow program.yaml            what applying it would change
      loyalty program apply cdnow program.yaml
    \b
    Every day:
      loyalty status                                     numbers, jobs, peers
      loyalty ledger verify                              proof that nothing was changed
    """
    ctx.obj = Tool()
    # Standard output is for answers; what the parts log goes beside it, and only if it matters.
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


@main.command()
@click.pass_obj
def migrate(tool: Tool) -> None:
    """Create the collections and indexes that this release needs.

    Only adds, so the release that is running keeps working. Again changes nothing. Needs the rights of the user
    loyalty_migrator: put its connection string into LOYALTY_MONGO_URI (`loyalty migrate` on a server does).
    """
    from loyalty import migrations

    added = migrations.migrate(tool.database(), release=tool.settings.release, clock=system_clock)
    click.echo("\n".join(added) if added else "Nothing to do: the database is up to date.")


@main.group()
def program() -> None:
    """Loyalty programs: whose points they are."""


@program.command("create")
@click.argument("program_id", metavar="ID")
@click.option("--name", required=True, help="Name that people see.")
@click.option("--currency", required=True, help="ISO 4217 code of all amounts, for ever: USD, EUR, JPY …")
@click.option("--timezone", default="UTC", show_default=True, help="IANA zone in which days and months begin.")
@click.option(
    "--backdating-days", type=int, help="How many days back an event may have happened. Default: any past date."
)
@click.option("--auto-enrol/--no-auto-enrol", default=True, help="Whether a first purchase enrols its customer.")
@click.pass_obj
def program_create(
    tool: Tool,
    program_id: str,
    name: str,
    currency: str,
    timezone: str,
    backdating_days: int | None,
    auto_enrol: bool,
) -> None:
    """Create the program ID. One that exists stays as it is, so that this can be run again at any time."""
    from pydantic import ValidationError

    from loyalty.programs import service
    from loyalty.programs.model import NewProgram, ProgramExists

    try:
        wanted = NewProgram(
            id=program_id,
            name=name,
            currency=currency,
            timezone=timezone,
            backdating_days=backdating_days,
            auto_enrol=auto_enrol,
            mode="live",
        ).model_dump(exclude={"policies"})
    except ValidationError as error:
        raise click.UsageError(_defects(error)) from None
    db = tool.database()
    try:
        service.create(db, clock=system_clock, **wanted)
    except ProgramExists:
        present = service.read(db, program_id)
        if present.currency != currency:
            raise Failed(
                f"The program {program_id} exists and counts in {present.currency}, for ever. Choose another id."
            ) from None
        click.echo(f"The program {program_id} exists already.")
        different = [field for field, value in wanted.items() if getattr(present, field) != value]
        if different:
            click.echo(
                f"Its {', '.join(different)} stays as it is. Change it with PATCH /v1/programs/{program_id}.", err=True
            )
        return
    click.echo(f"The program {program_id} was created.")


@program.command("export")
@click.argument("program_id", metavar="ID")
@click.pass_obj
def program_export(tool: Tool, program_id: str) -> None:
    """Print all that decides points in the program ID as YAML: settings, rules, tiers, rewards.

    Keep it under version control, compare it (`program plan`), or apply it to another program (`program apply`).
    """
    from loyalty.configuration import service

    click.echo(service.to_yaml(service.present(tool.database(), program_id).configuration), nl=False)


@program.command("plan")
@click.argument("program_id", metavar="ID")
@click.argument("file", type=click.File("rb"))
@click.pass_obj
def program_plan(tool: Tool, program_id: str, file: IO[bytes]) -> None:
    """Show what applying FILE (- for standard input) to the program ID would change. Nothing happens."""
    from loyalty.configuration import service

    found = service.present(tool.database(), program_id)
    wanted = service.parse(file.read())
    service.check(found, wanted)
    _print_differences(service.compare(found.configuration, wanted))


@program.command("diff")
@click.argument("before", type=click.File("rb"))
@click.argument("after", type=click.File("rb"))
def program_diff(before: IO[bytes], after: IO[bytes]) -> None:
    """Show what differs between the files BEFORE and AFTER. Needs no server."""
    from loyalty.configuration import service

    _print_differences(service.compare(service.parse(before.read()), service.parse(after.read())))


@program.command("apply")
@click.argument("program_id", metavar="ID")
@click.argument("file", type=click.File("rb"))
@click.pass_obj
def program_apply(tool: Tool, program_id: str, file: IO[bytes]) -> None:
    """Make the program ID what FILE (- for standard input) says, and print what changed. Again changes nothing.

    Parts that FILE does not have stay. Rules and tiers become new versions; what was awarded stays.
    """
    from loyalty.configuration import service

    _apply(tool.database(), program_id, service.parse(file.read()))


@program.command("promote")
@click.argument("source", metavar="SANDBOX")
@click.argument("target", metavar="LIVE")
@click.option("--dry-run", is_flag=True, help="Only show what would change.")
@click.pass_obj
def program_promote(tool: Tool, source: str, target: str, dry_run: bool) -> None:
    """Make the program LIVE what the program SANDBOX is, and print what changed.

    Settings, rules, tiers and rewards are carried over; members and points are not.
    """
    from loyalty.configuration import service

    db = tool.database()
    tried = service.present(db, source).configuration
    if dry_run:
        found = service.present(db, target)
        service.check(found, tried)
        _print_differences(service.compare(found.configuration, tried))
    else:
        _apply(db, target, tried)


def _apply(db: Mongo, program_id: str, wanted: Configuration) -> None:
    from loyalty.configuration import service

    found = service.present(db, program_id)
    _, changed = service.apply(db, found, wanted, applied_by="command line", clock=system_clock)
    _print_differences(changed)


def _print_differences(found: Sequence[Difference]) -> None:
    for difference in found:
        click.echo(f"{difference.path}: {_shown(difference.before)} -> {_shown(difference.after)}")
    if not found:
        click.echo("No differences.")


def _shown(value: object) -> str:
    from loyalty.configuration.differences import ABSENT

    return "absent" if value is ABSENT else orjson.dumps(value).decode()


@main.command("backtest")
@click.argument("program_id", metavar="PROGRAM")
@click.option("--rules", "rules_file", type=click.File("rb"), required=True, help="The rules to try, YAML or JSON.")
@click.option("--tiers", "tiers_file", type=click.File("rb"), help="Other tiers to try with them.")
@click.option("--from", "start", help="Events that occurred from this instant on. Default: the first.")
@click.option("--to", "end", help="Events that occurred before this instant. Default: now.")
@click.option(
    "--clock",
    type=click.Choice(["recorded", "occurred"]),
    default="recorded",
    show_default=True,
    help="Whether events are decided when they were recorded, or as if each had been told at once.",
)
@click.option(
    "--segment",
    "segments",
    multiple=True,
    help="tier, status, language, attributes.<name> or segments.<id>; repeat it.",
)
@click.option("--processes", type=click.IntRange(1, 256), help="How many share the work. Default: one a processor.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def backtest(
    tool: Tool,
    program_id: str,
    rules_file: IO[bytes],
    tiers_file: IO[bytes] | None,
    start: str | None,
    end: str | None,
    clock: str,
    segments: tuple[str, ...],
    processes: int | None,
    as_json: bool,
) -> None:
    """Try rules on what happened in PROGRAM, and print what they would have given beside what was given.

    Instants are RFC 3339, such as 2026-01-01T00:00:00Z. Nothing is changed, and nothing is kept.
    """
    import os

    from pydantic import ValidationError

    from loyalty.backtests import service
    from loyalty.backtests.model import NewBacktest
    from loyalty.backtests.report import lines_of
    from loyalty.configuration import text
    from loyalty.programs import service as programs

    wanted = {
        "rules": text.read(rules_file.read()),
        "tiers": text.read(tiers_file.read()) if tiers_file else None,
        "from": start,
        "to": end,
        "clock": clock,
        "segments": list(segments) or ["tier"],
    }
    try:
        body = NewBacktest.model_validate_json(orjson.dumps(wanted))
    except ValidationError as error:
        told = [f"{'/'.join(map(str, defect['loc']))}: {defect['msg']}" for defect in error.errors(include_url=False)]
        raise click.UsageError("\n".join(told)) from None
    db = tool.database()
    spec = service.spec_of(db, programs.read(db, program_id), body, now=system_clock())
    terminal = sys.stderr.isatty()

    def progress(percent: int) -> None:
        if terminal:
            click.echo(f"\r{percent} %", nl=percent >= 100, err=True)

    result = service.evaluate(
        db,
        spec,
        uri=tool.settings.mongo_uri.get_secret_value(),
        processes=processes or os.cpu_count() or 1,
        progress=progress,
    )
    if as_json:
        _print_json(result)
    else:
        click.echo("\n".join(lines_of(result)))


@main.group()
def key() -> None:
    """API keys of a program."""


def _key_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.argument("program_id", metavar="PROGRAM"),
        click.option("--name", required=True, help="What the key is for: the till, the shop's server …"),
        click.option("--scope", "scopes", multiple=True, help="What it may do, such as events:write. Repeat it."),
        click.option("--all-scopes", is_flag=True, help="Let it do everything in the program."),
        click.option("--expires-days", type=click.IntRange(1, 3650), help="Days until it ends. Default: never."),
    ):
        command = option(command)
    return command


@key.command("create")
@_key_options
@click.pass_obj
def key_create(
    tool: Tool, program_id: str, name: str, scopes: tuple[str, ...], all_scopes: bool, expires_days: int | None
) -> None:
    """Create a key for PROGRAM and print it. It is shown once: only its hash is stored."""
    from loyalty.auth import service

    db = tool.database()
    made, secret = service.create_key(db, **_new_key(db, program_id, name, scopes, all_scopes, expires_days))
    click.echo(f"{made.id}: {', '.join(made.scopes)}", err=True)
    click.echo(secret)


@key.command("import")
@_key_options
@click.pass_obj
def key_import(
    tool: Tool, program_id: str, name: str, scopes: tuple[str, ...], all_scopes: bool, expires_days: int | None
) -> None:
    """Register a key that was made elsewhere, read from standard input. Again changes nothing.

    A key is `lk_` and 43 characters of URL-safe base64 (32 random bytes).
    """
    from loyalty.auth import service

    typed = sys.stdin.isatty()
    secret = click.prompt("API key", hide_input=True, err=True) if typed else sys.stdin.readline().strip()
    db = tool.database()
    options = _new_key(db, program_id, name, scopes, all_scopes, expires_days)
    try:
        made = service.import_key(db, secret=secret, **options)
    except ValueError as error:
        raise click.UsageError(f"Standard input does not hold an API key: {error}.") from None
    if made.program != program_id:
        raise Failed(f"This key belongs to the program {made.program} already. Make another one.")
    click.echo(made.id)


def _new_key(
    db: Mongo, program_id: str, name: str, scopes: tuple[str, ...], all_scopes: bool, expires_days: int | None
) -> dict[str, Any]:
    from pydantic import ValidationError

    from loyalty.auth.model import ALL_SCOPES, NewKey
    from loyalty.programs import service as programs

    if bool(scopes) == all_scopes:
        raise click.UsageError(
            f"Give --all-scopes, or --scope for each of what the key may do: {', '.join(ALL_SCOPES)}."
        )
    now = system_clock()
    try:
        wanted = NewKey(
            name=name,
            scopes=[*(ALL_SCOPES if all_scopes else scopes)],  # type: ignore[list-item]
            expires_at=now + timedelta(days=expires_days) if expires_days else None,
        )
    except ValidationError as error:
        raise click.UsageError(_defects(error)) from None
    return {
        "program": program_id,
        "mode": programs.read(db, program_id).mode,
        "clock": system_clock,
        **wanted.model_dump(),
    }


@key.command("list")
@click.argument("program_id", metavar="PROGRAM")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def key_list(tool: Tool, program_id: str, as_json: bool) -> None:
    """List the keys of PROGRAM, without their secrets."""
    from loyalty.auth import service
    from loyalty.auth.model import KeyOut

    keys = service.list_keys(tool.database(), program=program_id)
    if as_json:
        _print_json([KeyOut.of(found).model_dump(mode="json") for found in keys])
        return
    now = system_clock()
    for found in keys:
        state = "valid" if found.is_valid_at(now) else "ended"
        click.echo(f"{found.id}  {state}  {found.name}  {' '.join(found.scopes)}")


@key.command("revoke")
@click.argument("program_id", metavar="PROGRAM")
@click.argument("key_id", metavar="KEY")
@click.pass_obj
def key_revoke(tool: Tool, program_id: str, key_id: str) -> None:
    """Close the key KEY (its id, key_…) of PROGRAM, everywhere within seconds."""
    from loyalty.auth import service
    from loyalty.infra.redis import RedisLink

    url = tool.settings.redis_url
    redis = RedisLink(url.get_secret_value() if url else None)
    service.revoke(tool.database(), program=program_id, key_id=key_id, clock=system_clock, redis=redis)
    click.echo(f"{key_id} is revoked.")


@main.group()
def ledger() -> None:
    """The points ledger: prove it, seal it, rebuild what is derived from it."""


@ledger.command("verify")
@_progress_option
@click.option("--processes", type=click.IntRange(1, 256), help="How many share the work. Default: one a processor.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def ledger_verify(tool: Tool, progress: bool | None, processes: int | None, as_json: bool) -> None:
    """Check every chain, posting, state, seal, sum and wallet from the first entry. 1 when something is wrong.

    Seals must also be those that the daily files of the storage keep. Names the first broken entry of each chain.
    """
    from loyalty.jobs.sealing import seal_key, witnesses
    from loyalty.ledger.verify import verify

    db = tool.database()
    found = verify(
        db,
        uri=tool.settings.mongo_uri.get_secret_value(),
        processes=processes,
        seal_key=seal_key(tool.settings).public_key(),
        witnesses=witnesses(tool.settings.storage_path),
        progress=_progress(progress, db.ledger.estimated_document_count()),
    )
    if as_json:
        _print_json({"ok": found.ok, **asdict(found)})
    else:
        click.echo(
            f"{found.chains:,} members, {found.entries:,} entries, {found.seals:,} seals over {found.sealed_entries:,}"
        )
        for wallet, available in sorted(found.available.items()):
            click.echo(f"{available:,} {wallet} available")
        for defect in found.defects:
            click.echo(f"{defect.where}: {defect.what}", err=True)
        click.echo("The ledger is whole." if found.ok else "The ledger is NOT whole.")
    if not found.ok:
        sys.exit(1)


@ledger.command("rebuild")
@_progress_option
@click.pass_obj
def ledger_rebuild(tool: Tool, progress: bool | None) -> None:
    """Drop the wallets and make them anew from the ledger. Safe while the system is in use."""
    from loyalty.ledger.projection import rebuild

    db = tool.database()
    count = rebuild(db, progress=_progress(progress, db.ledger.estimated_document_count()))
    click.echo(f"{count:,} wallets were rebuilt.")


@ledger.command("key")
@click.pass_obj
def ledger_key(tool: Tool) -> None:
    """Print the public key of this installation, with which anybody can check its seals and receipts. Publish it."""
    from loyalty.jobs.sealing import seal_key

    click.echo(seal_key(tool.settings).public_key().public_bytes_raw().hex())


@ledger.command("seal")
@click.pass_obj
def ledger_seal(tool: Tool) -> None:
    """Seal what is new now, without waiting for the minute."""
    from loyalty.jobs.sealing import seal_key
    from loyalty.ledger.seal import Sealer

    sealer = Sealer(tool.database(), seal_key(tool.settings))
    made = 0
    while (seal := sealer.seal(system_clock())) is not None:
        made += 1
        click.echo(f"Seal {seal['_id']}: {seal['count']:,} entries, {bytes(seal['hash']).hex()}")
    if not made:
        click.echo("Nothing new to seal.")


@main.group()
def receipt() -> None:
    """Receipts: proofs of single entries, which anybody can check without a server."""


@receipt.command("verify")
@click.argument("file", type=click.File("rb"))
@click.option("--public-key", help="The installation's key in hexadecimal, as its operator has published it.")
def receipt_verify(file: IO[bytes], public_key: str | None) -> None:
    """Check the receipt in FILE (- for standard input), offline. 1 when it proves nothing.

    Needs no settings and no database. GET /v1/entries/{entry}/receipt makes receipts. Without --public-key the receipt
    is only consistent in itself: anybody can sign a ledger of his own. `loyalty ledger key` prints the key.
    """
    from loyalty.ledger.receipts import LONGEST, BadReceipt, check_receipt

    trusted: bytes | None = None
    if public_key is not None:
        try:
            trusted = bytes.fromhex(public_key)
        except ValueError:
            trusted = b""
        if len(trusted) != 32:
            raise click.UsageError("--public-key must be 64 hexadecimal digits, as `loyalty ledger key` prints them.")
    try:
        proven = check_receipt(file.read(LONGEST + 1), public_key=trusted)
    except BadReceipt as bad:
        raise Failed(f"The receipt proves nothing. {bad}") from None
    for check in proven.checks:
        click.echo(check)
    click.echo("The receipt is good." if trusted else "The receipt is good if the key is.")


@main.group()
def member() -> None:
    """Members of a program."""


@member.command("unfreeze")
@click.argument("program_id", metavar="PROGRAM")
@click.argument("reference", metavar="MEMBER")
@click.option("--reason", required=True, help="What was found out; kept with the violation.")
@click.pass_obj
def member_unfreeze(tool: Tool, program_id: str, reference: str, reason: str) -> None:
    """Let MEMBER (mem_…, ext:…, card:…) of PROGRAM spend again, after the monitor has frozen the points.

    First find out what happened to the entry that `loyalty ledger verify` names.
    """
    from loyalty.proofs import service

    found = service.unfreeze(
        tool.database(), program_id, reference, reason=reason, by="the command line", clock=system_clock
    )
    click.echo(f"{found.id} may spend again.")


@main.group()
def jobs() -> None:
    """Background work."""


@jobs.command("run")
@click.pass_obj
def jobs_run(tool: Tool) -> None:
    """Run the jobs until SIGTERM, whenever this process holds the lease.

    Several nodes may run this; one works, the others stand by and take over within seconds. `loyalty status`
    shows what ran when. MongoDB may be away at the start and later: the process waits for it.
    """
    from loyalty.infra.logging import configure_logging
    from loyalty.jobs.schedule import JOBS
    from loyalty.jobs.worker import Worker, run_until_signalled

    configure_logging(tool.settings)
    run_until_signalled(Worker(tool.database(), tool.settings, JOBS))


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def status(tool: Tool, as_json: bool) -> None:
    """Show numbers, jobs, MongoDB, Redis and storage. 1 when something needs a person."""
    from loyalty.status import gather

    found = gather(tool.settings, tool.database(), now=system_clock())
    if as_json:
        _print_json(found)
    else:
        click.echo("\n".join(_status_lines(found)))
    if not found["ok"]:
        sys.exit(1)


def _status_lines(found: dict[str, Any]) -> Iterator[str]:
    yield f"{found['site']}, release {found['release']}"
    yield f"MongoDB   primary {found['mongodb']['primary'] or 'MISSING'}"
    yield f"Redis     {found['redis']}"
    storage = found["storage"]
    if "error" not in storage:
        yield f"Storage   {storage['free_bytes'] / 2**30:,.1f} of {storage['total_bytes'] / 2**30:,.1f} GiB free"
    if "members" in found:
        points = ", ".join(f"{points:,} {wallet}" for wallet, points in sorted(found["points_available"].items()))
        yield f"Ledger    {found['members']:,} members, {found['entries']:,} entries, {points or '0 points'} available"
        seal = found["last_seal"]
        yield (
            f"Seal      {seal['number']} at {seal['sealed_at']:%Y-%m-%d %H:%M:%S} UTC" if seal else "Seal      none yet"
        )
        for job in found["jobs"]:
            ran = f"{job['last_finished_at']:%Y-%m-%d %H:%M:%S} UTC" if job["last_finished_at"] else "never"
            lag = f", {job['lag']:.1f} s behind" if job["lag"] is not None else ""
            yield f"Job       {job['name']:<12} {job['state']:<8} last at {ran}{lag}"
    for problem in found["problems"]:
        yield f"PROBLEM   {problem}"


@main.command()
@click.pass_obj
def openapi(tool: Tool) -> None:
    """Print the OpenAPI 3.1 document of the HTTP API."""
    from loyalty.app import create_app

    app = create_app(tool.settings)
    with app.test_request_context():
        _print_json(app.spec)
