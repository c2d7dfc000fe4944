"""The verbs around releases: deploy, rollback, releases, history, unlock, upgrade."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from loyalty.ops.ansible import run_playbook
from loyalty.ops.console import Step, Steps
from loyalty.ops.info import site_variables
from loyalty.ops.lab_cli import site_option
from loyalty.ops.options import check_option, extra_option, extra_variables, json_option, verbose_option

_reason_option = click.option("--reason", help="Why; kept in the lock and in the history.")


@click.command()
@click.argument("version", required=False)
@site_option
@_reason_option
@check_option
@verbose_option
@extra_option
def deploy(version: str | None, site: str, reason: str | None, check: bool, verbose: bool, extra: str | None) -> None:
    """Deploy VERSION of the application beside the running one, and switch over without a failed request.

    VERSION is a tag, a branch or a commit of this checkout; without it, the checkout as it is. One server follows the
    other, and the first failure stops. The new release is watched after the switch: if it answers 500s or is slow, the
    old one gets the traffic back by itself, and the new one is void until it is named.

    \b
    ./appliance deploy --site shop                    # the checkout as it is
    ./appliance deploy v1.4.0 --site shop --reason "campaigns for spring"
    ./appliance deploy v1.4.0 --site shop --check     # only say what would happen
    ./appliance deploy --site shop --extra-vars '{"app_watch_seconds": 300}'
    """
    variables = extra_variables(extra)
    if version:
        variables["app_version"] = version
    _run("deploy", site, f"Deploying {version or 'the checkout'} to {site}", variables, reason, check, verbose)


@click.command()
@click.argument("release", required=False)
@site_option
@_reason_option
@check_option
@verbose_option
@extra_option
def rollback(release: str | None, site: str, reason: str | None, check: bool, verbose: bool, extra: str | None) -> None:
    """Go back to RELEASE, which the servers still have; without it, to the one before.

    The same way as a deploy, without a failed request, in seconds: nothing is built. The release that is left is void:
    no `deploy` or `apply` chooses it again unless it is named. The database stays as it is.

    \b
    ./appliance releases --site shop
    ./appliance rollback --site shop --reason "balances are shown twice"
    ./appliance rollback 20260131T120000Z-0123456789ab --site shop
    """
    variables = extra_variables(extra)
    if release:
        variables["app_release"] = release
    _run(
        "rollback", site, f"Rolling {site} back to {release or 'the release before'}", variables, reason, check, verbose
    )


@click.command()
@site_option
@json_option
@verbose_option
def releases(site: str, as_json: bool, verbose: bool) -> None:
    """List the releases of every application server: which runs, ran before, is void and why; who holds the lock."""
    _show("releases", site, f"Releases of {site}", as_json=as_json, verbose=verbose)


@click.command()
@site_option
@json_option
@verbose_option
def history(site: str, as_json: bool, verbose: bool) -> None:
    """Show what was done to the servers of a site: when, by whom, what, and how it ended. The latest is last."""
    _show("history", site, f"History of {site}", as_json=as_json, verbose=verbose)


@click.command()
@site_option
@click.option("--force", is_flag=True, required=True, help="The run that holds the lock is gone; I have made sure.")
@verbose_option
def unlock(site: str, force: bool, verbose: bool) -> None:
    """Open the deploy lock that a run has left behind. The history says who did, and whose it was.

    A lock runs out by itself (app_lock_minutes, 30). `./appliance releases` says who holds it, and what for.
    """
    with Steps().step(f"Unlocking {site}") as step:
        name = str(site_variables(site)["site_name"])
        run_playbook("unlock", site, step, extra={"confirm": name} if force else {}, verbose=verbose)


@click.command()
@site_option
@click.option(
    "--reboot", is_flag=True, help="Reboot a server if its new packages ask for it (a new kernel, a new libc)."
)
@_reason_option
@check_option
@verbose_option
@extra_option
def upgrade(site: str, reboot: bool, reason: str | None, check: bool, verbose: bool, extra: str | None) -> None:
    """Upgrade the packages of the operating system, one server after the other.

    A server is only touched while the whole site is healthy, and the next one only when it is healthy again; a member
    of the replica set gives up being primary first. A site of one server is away while its database restarts.

    \b
    ./appliance upgrade --site shop --check           # what would be upgraded, server by server
    ./appliance upgrade --site shop --reboot
    """
    variables = extra_variables(extra)
    if reboot:
        variables["upgrade_reboot_enabled"] = True
    _run("upgrade", site, f"Upgrading the servers of {site}", variables, reason, check, verbose)


def _run(
    name: str, site: str, title: str, variables: dict[str, Any], reason: str | None, check: bool, verbose: bool
) -> None:
    """Run a playbook that changes servers."""
    if reason:
        variables["upgrade_reason" if name == "upgrade" else "app_reason"] = reason
    with Steps().step(title) as step:
        options = ["--check", "--diff"] if check else []
        run_playbook(name, site, step, extra=variables, options=options, verbose=verbose, show=check)


def _show(name: str, site: str, title: str, *, as_json: bool, verbose: bool) -> None:
    """Run a playbook that only looks, and show the table that it prints or the JSON that it leaves."""
    if as_json:
        run_playbook(name, site, Step(title), quiet=True)
        directory = Path(str(site_variables(site)["site_directory"]))
        click.echo((directory / f"{name}.json").read_text(encoding="utf-8"), nl=False)
        return
    with Steps().step(title) as step:
        run_playbook(name, site, step, verbose=verbose, show=True)
