"""`./appliance replica ...`: who belongs to the replica set, changed by plan."""

from __future__ import annotations

import click

from loyalty.ops.ansible import run_playbook
from loyalty.ops.console import Step, Steps
from loyalty.ops.lab_cli import site_option

_hosts_argument = click.argument("hosts", nargs=-1, required=True, metavar="HOST...")
_check_option = click.option("--check", is_flag=True, help="Only show the plan.")
_verbose_option = click.option("-v", "--verbose", is_flag=True, help="Show all that Ansible prints.")


@click.group()
def replica() -> None:
    """Add members to the replica set of MongoDB, take members out, restart them in turn.

    The inventory is the truth: put the host into the group mongodb before you add it, take it out before you remove
    it. Each change is a plan of steps that keep a majority and change one vote each.

    \b
    ./appliance replica add db2 --site shop --check      # the plan
    ./appliance replica add db2 --site shop
    ./appliance replica remove box1 --site shop --confirm shop
    """


@replica.command()
@_hosts_argument
@site_option
@_check_option
@_verbose_option
def add(hosts: tuple[str, ...], site: str, check: bool, verbose: bool) -> None:
    """Install members that the inventory names and let them join; then apply the site.

    A new member copies the data without a vote and gets its vote when it has caught up. Safe to repeat.
    """
    with Steps().step(f"Adding {' '.join(hosts)} to the replica set of {site}") as step:
        _run("replica_add", site, step, hosts, check=check, verbose=verbose)


@replica.command()
@_hosts_argument
@site_option
@_check_option
@click.option("--confirm", default="", metavar="SITE", help="The name of the site, to say that you mean it.")
@_verbose_option
def remove(hosts: tuple[str, ...], site: str, check: bool, confirm: str, verbose: bool) -> None:
    """Take members out of the set, stop their mongod and keep their data aside; then apply the site.

    A primary hands over first. The data stays on the host, in a folder beside the old one.
    """
    with Steps().step(f"Removing {' '.join(hosts)} from the replica set of {site}") as step:
        _run("replica_remove", site, step, hosts, check=check, verbose=verbose, confirm=confirm)


@replica.command()
@site_option
@_check_option
@_verbose_option
def restart(site: str, check: bool, verbose: bool) -> None:
    """Restart mongod on every member, one at a time and the primary last, while the site goes on."""
    with Steps().step(f"Restarting the replica set of {site}") as step:
        options = ["--check"] if check else []
        run_playbook("replica_restart", site, step, options=options, verbose=verbose)


PLAN = ("--check", "--tags", "preflight")
"""The part of both playbooks that looks for whatever stands in the way and shows the steps. Takes seconds."""


def _run(name: str, site: str, step: Step, hosts: tuple[str, ...], *, check: bool, verbose: bool, **extra: str) -> None:
    variables = {"replica_hosts": list(hosts), **extra}
    run_playbook(name, site, step, extra=variables, options=PLAN if check else (), verbose=verbose, show=check)
    if check:
        step.say("Nothing was changed. With --diff in place of --tags preflight, that line shows all else that would.")
