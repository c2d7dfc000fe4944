"""Drills on a real site: a playbook rehearses what must not be tried for the first time when it counts."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from loyalty.ops.ansible import Stopped, run_playbook
from loyalty.ops.checks.drills import last
from loyalty.ops.console import Steps
from loyalty.ops.errors import Failure
from loyalty.ops.info import site_variables

Result = Mapping[str, Any]


def rehearse(
    kind: str,
    site: str,
    summary: Callable[[Result], str],
    *,
    again: str,
    as_json: bool,
    verbose: bool,
    on_stop: Callable[[Stopped], None] = lambda stopped: None,
) -> None:
    """Run the playbook `<kind>_drill` and show what it found; ends with 1 when the drill was not passed.

    `summary` says of the result what follows "passed:", `again` is the command that was given, and `on_stop` may raise
    what a stopped playbook means. A playbook that stops without a new result is a failure.
    """
    directory = Path(str(site_variables(site)["site_directory"]))
    before = last(directory)[kind]
    # What is for people goes to standard error when a script listens.
    with (
        contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext(),
        Steps().step(f"{kind.capitalize()} drill on {site}") as step,
    ):
        stop: Stopped | None = None
        try:
            run_playbook(f"{kind}_drill", site, step, verbose=verbose)
        except Stopped as stopped:
            on_stop(stopped)
            stop = stopped
        result = last(directory)[kind]
        if result is None or result == before:
            raise stop or Failure(f"{directory} has no new result of the drill.", again)
        step.note = f"{'passed' if result['ok'] else 'NOT PASSED'}: {summary(result)}"
    if as_json:
        click.echo(json.dumps(result, indent=2))
    if not result["ok"]:
        sys.exit(1)
