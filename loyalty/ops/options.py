"""Options that several verbs share, so that they are spelt and explained alike."""

from __future__ import annotations

import json
from typing import Any

import click

from loyalty.ops.errors import Refusal

verbose_option = click.option("-v", "--verbose", is_flag=True, help="Show all that Ansible or the tests print.")
json_option = click.option("--json", "as_json", is_flag=True, help="For scripts.")
check_option = click.option("--check", is_flag=True, help="Only say what would change.")
extra_option = click.option(
    "--extra-vars", "extra", metavar="JSON", help="Variables for this run, typed: '{\"app_workers\": 4}'."
)


def extra_variables(text: str | None) -> dict[str, Any]:
    """Read the operator's JSON; nothing when there is none. Refusal when it is no JSON object."""
    try:
        variables = json.loads(text) if text else {}
    except ValueError as error:
        raise Refusal(f"--extra-vars is not JSON: {error}.", """Write it like '{"app_workers": 4}'.""") from None
    if not isinstance(variables, dict):
        raise Refusal("--extra-vars is not a JSON object.", """Write it like '{"app_workers": 4}'.""")
    return variables
