"""`./appliance failover --drill`: the primary fails on purpose, and clients say what they noticed."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import click

from loyalty.ops.ansible import Stopped, run_playbook
from loyalty.ops.checks.drills import last
from loyalty.ops.console import Steps
from loyalty.ops.errors import Failure, Refusal
from loyalty.ops.info import site_variables
from loyalty.ops.lab_cli import site_option

_GATE = "See that the set would survive"


@click.command()
@site_option
@click.option("--drill", is_flag=True, help="Yes, let the primary fail.")
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
@click.option("-v", "--verbose", is_flag=True, help="Show all that Ansible prints.")
def failover(site: str, drill: bool, as_json: bool, verbose: bool) -> None:
    """Rehearse the loss of MongoDB's primary on the real site, first as planned and then by SIGKILL.

    Writers of a sandbox program write meanwhile, as clients do; nobody's points are touched. Measured is how long a
    writer had to wait, proved is that nothing is lost that was acknowledged. The site's folder keeps the result for
    `status`. Refuses (exit code 2) when the replica set would not survive the loss of its primary.

    \b
    ./appliance failover --drill --site shop
    ./appliance failover --drill --site shop --json
    """
    if not drill:
        raise Refusal(
            "A failover happens by itself, or as a drill.",
            f"./appliance failover --drill --site {site}, or to move the primary: ./appliance replica restart --help",
        )
    directory = Path(str(site_variables(site)["site_directory"]))
    before = last(directory)["failover"]
    # What is for people goes to standard error when a script listens.
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        result = _rehearse(site, directory, before, verbose=verbose)
    if as_json:
        click.echo(json.dumps(result, indent=2))
    if not result["ok"]:
        sys.exit(1)


def _rehearse(site: str, directory: Path, before: dict[str, Any] | None, *, verbose: bool) -> dict[str, Any]:
    with Steps().step(f"Failover drill on {site}") as step:
        try:
            run_playbook("failover_drill", site, step, verbose=verbose)
        except Stopped as stopped:
            if stopped.progress.failed_task.endswith(_GATE):
                raise Refusal(_said(stopped), "Then give the same command again.") from None
            result = last(directory)["failover"]
            if result is None or result == before:
                raise
        result = last(directory)["failover"]
        if result is None:
            raise Failure(f"{directory} has no result of the drill.", f"./appliance failover --drill --site {site}")
        step.note = (
            f"{'passed' if result['ok'] else 'NOT PASSED'}: {result['acknowledged']:,} writes, "
            f"{result['acknowledged_lost']} lost; longest wait planned {result['planned_gap_seconds']} s, "
            f"unplanned {result['unplanned_gap_seconds']} s"
        )
    return result


def _said(stopped: Stopped) -> str:
    """What the module said, without Ansible's words around it."""
    text = " ".join(line.strip() for line in stopped.progress.failure)
    return text.partition("msg:")[2].strip(" >|-'\"") or text
