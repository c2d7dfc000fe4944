"""`./appliance failover --drill`: the primary fails on purpose, and clients say what they noticed."""

from __future__ import annotations

import click

from loyalty.ops.ansible import Stopped
from loyalty.ops.drills import Result, rehearse
from loyalty.ops.errors import Refusal
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
    rehearse(
        "failover",
        site,
        _summary,
        again=f"./appliance failover --drill --site {site}",
        as_json=as_json,
        verbose=verbose,
        on_stop=_refuse_at_the_gate,
    )


def _summary(result: Result) -> str:
    return (
        f"{result['acknowledged']:,} writes, {result['acknowledged_lost']} lost; longest wait planned "
        f"{result['planned_gap_seconds']} s, unplanned {result['unplanned_gap_seconds']} s"
    )


def _refuse_at_the_gate(stopped: Stopped) -> None:
    if stopped.progress.failed_task.endswith(_GATE):
        raise Refusal(_said(stopped), "Then give the same command again.") from None


def _said(stopped: Stopped) -> str:
    """What the module said, without Ansible's words around it."""
    text = " ".join(line.strip() for line in stopped.progress.failure)
    return text.partition("msg:")[2].strip(" >|-'\"") or text
