"""The verbs around backups: backup, restore, drill."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from loyalty.ops.ansible import Stopped, run_playbook
from loyalty.ops.bare_metal import bring_home
from loyalty.ops.console import Steps
from loyalty.ops.drills import Result, rehearse
from loyalty.ops.errors import Failure, Refusal
from loyalty.ops.lab_cli import site_option
from loyalty.ops.options import check_option, extra_option, extra_variables, json_option, verbose_option

KINDS = ("full", "incremental", "log", "files", "dump", "verify", "prune", "copy")
"""What can be taken by itself, in the order in which it is taken."""
_AFTERWARDS = ("8 ", "9 ", "10 ", "Look at the site")
"""How the plays of `restore` begin that come when the site is open again."""
_INSTANT = re.compile(r"latest|\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


def _kind_option(kind: str, what: str) -> Callable[[Any], Any]:
    return click.option(f"--{kind}", "kinds", flag_value=kind, multiple=True, help=what)


@click.command()
@site_option
@_kind_option("full", "A whole copy of the database.")
@_kind_option("incremental", "What changed since the last copy.")
@_kind_option("log", "What was written since the last slice of the log.")
@_kind_option("files", "The file store.")
@_kind_option("dump", "The database in a format of its own.")
@_kind_option("verify", "Read archives and compare their checksums.")
@_kind_option("prune", "Remove what is older than the retention.")
@_kind_option("copy", "Copy everything to the second place.")
@check_option
@verbose_option
@extra_option
def backup(site: str, kinds: tuple[str, ...], check: bool, verbose: bool, extra: str | None) -> None:
    """Take backups now, as their timers do, and show what is kept.

    Without a kind: incremental, log, files. The site's folder on this machine (inventory, vault, certificate authority)
    is kept as well, encrypted with the vault's password. A backup that is being taken is waited for.

    \b
    ./appliance backup --site shop                # before something risky
    ./appliance backup --full --files --site shop
    """
    variables = extra_variables(extra)
    if kinds:
        variables["backup_kinds"] = [kind for kind in KINDS if kind in kinds]
    with Steps().step(f"Backups of {site}") as step:
        options = ["--check"] if check else []
        run_playbook("backup", site, step, extra=variables, options=options, verbose=verbose, show=True)


@click.command()
@site_option
@click.option("--to", "to", default="latest", show_default=True, metavar="INSTANT", help="UTC, 2026-11-22T14:05:07Z.")
@click.option(
    "--into",
    type=click.Choice(["site", "scratch"]),
    default="site",
    show_default=True,
    help="The site itself, or beside it, to look at.",
)
@click.option("--confirm", default="", metavar="SITE", help="The name of the site, to say that you mean it.")
@click.option("--end", is_flag=True, help="Remove what --into scratch has restored.")
@click.option("--drive", type=click.Path(exists=True, file_okay=False, path_type=Path), help="New servers; see above.")
@click.option("--new-passwords", is_flag=True, help="For a site with another vault; see above.")
@click.option(
    "--vault-password-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="With --drive, where nobody can be asked.",
)
@check_option
@verbose_option
@extra_option
def restore(
    site: str,
    to: str,
    into: str,
    confirm: str,
    end: bool,
    drive: Path | None,
    new_passwords: bool,
    vault_password_file: Path | None,
    check: bool,
    verbose: bool,
    extra: str | None,
) -> None:
    """Put the database back to INSTANT, to the second, or restore it beside the site to look at it.

    Into the site: it is closed (503, with Retry-After), the last writes are archived so that this can be undone, every
    member of the replica set gets the data of that instant, the ledger is verified, and it is opened again. If that
    stops half way, the same command goes on. The old data stays on each host, beside the new.

    Onto new servers, after everything was lost: clone this repository, attach the backup drive, and name the folder
    where it is mounted here (--drive). Inventory, vault and certificates come from there, and you are asked for the
    vault's password; then everything is installed, and the data restored.

    With another vault than that of the site which was backed up, because its password is lost, nobody can log in to the
    database that was restored: --new-passwords makes its users anew, with the passwords of the vault.

    \b
    ./appliance restore --to 2026-11-22T14:05:07Z --into scratch --site shop     # look first
    ./appliance restore --into scratch --end --site shop
    ./appliance restore --to 2026-11-22T14:05:07Z --site shop --check            # is it within reach?
    ./appliance restore --to 2026-11-22T14:05:07Z --site shop --confirm shop
    ./appliance restore --to latest --drive /mnt/backup --site shop --confirm shop
    """
    variables = {**extra_variables(extra), "backup_restore_to": to}
    if new_passwords:
        variables["backup_restore_users"] = False
    if not _INSTANT.fullmatch(to):
        raise Refusal(f"--to {to!r} is no instant.", "Say latest, or UTC to the second: --to 2026-11-22T14:05:07Z")
    if new_passwords and into != "site":
        raise Refusal(
            "New passwords are for the site; what is restored beside it keeps its users.", "Leave --new-passwords out."
        )
    if end and into != "scratch":
        raise Refusal(
            "Only what was restored beside the site can be ended.", "./appliance restore --into scratch --end"
        )
    steps = Steps()
    if drive is not None:
        if into != "site" or confirm != site:
            raise Refusal("--drive makes the whole site anew.", f"Say that you mean it: --confirm {site}")
        with steps.step(f"Taking the folder of {site} from {drive}") as step:
            step.note = bring_home(site, drive, _vault_password(vault_password_file))
        with steps.step("Installing the servers") as step:
            # Backups of the empty database would come after those that are to be restored.
            waiting = {**extra_variables(extra), "backup_timers_enabled": False}
            run_playbook("site", site, step, extra=waiting, options=["--skip-tags", "verify"], verbose=verbose)
    options = ["--check"] if check else []
    if into == "scratch":
        variables["backup_scratch_state"] = "absent" if end else "present"
        with steps.step(f"{'Ending' if end else 'Restoring'} {site} beside the site") as step:
            run_playbook("restore_scratch", site, step, extra=variables, options=options, verbose=verbose, show=True)
        return
    with steps.step(f"Restoring {site} to {to}") as step:
        try:
            run_playbook(
                "restore",
                site,
                step,
                extra={**variables, "confirm": confirm},
                options=options,
                verbose=verbose,
                show=True,
            )
        except Stopped as stopped:
            if check or not stopped.progress.play.startswith(_AFTERWARDS):
                raise
            # To give the same command again would be another restore.
            raise Failure(
                f"{site} is restored and open, and something is not well with it: {stopped.problem}",
                f"./appliance status --site {site}",
                stopped.details,
            ) from None


@click.group()
def drill() -> None:
    """Rehearse what must not be tried for the first time when it counts. `failover --drill` is another one.

    \b
    ./appliance drill restore --site shop
    """


@drill.command("restore")
@site_option
@json_option
@verbose_option
def drill_restore(site: str, as_json: bool, verbose: bool) -> None:
    """Restore the newest backups beside the site, verify the ledger, and measure; the site notices nothing.

    Exit code 0: passed. 1: not passed, or it stopped half way. The host that keeps the backups does this every week by
    itself; `status` shows the last one and gives alarm after eight days without.

    \b
    ./appliance drill restore --site shop
    ./appliance drill restore --site shop --json      # ok, rto_seconds, rpo_seconds, entries, verified, ...
    """
    rehearse(
        "restore", site, _summary, again=f"./appliance drill restore --site {site}", as_json=as_json, verbose=verbose
    )


def _summary(result: Result) -> str:
    return (
        f"restored in {result['rto_seconds']:.0f} s, {result['rpo_seconds']:.0f} s would be lost, "
        f"{result['entries']:,} entries {'verified' if result['verified'] else 'NOT VERIFIED'}"
    )


def _vault_password(file: Path | None) -> str:
    if file is not None:
        return file.read_text(encoding="utf-8").strip()
    return str(click.prompt("The vault's password", hide_input=True)).strip()
