"""Every command of the runbook is one that the programs understand, and none is left out of the rehearsals."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from loyalty.backup.cli import main as loyalty_backup
from loyalty.ops.cli import cli as appliance
from tests.runbook import RUNBOOK, Step, steps

CHECKOUT = Path(__file__).parents[3]


def understand(group: click.Group, arguments: list[str]) -> click.Context:
    """Parse a command line as the program does, down to the command; it is not run. UsageError when it is wrong."""
    context = click.Context(group)
    name, command, rest = group.resolve_command(context, list(arguments))
    assert command is not None
    return understand(command, rest) if isinstance(command, click.Group) else command.make_context(name, rest, context)


@pytest.mark.parametrize("step", steps(), ids=lambda step: step.command[:60])
def test_the_programs_understand_what_the_runbook_types(step: Step, tmp_path: Path) -> None:
    program, *arguments = shlex.split(step.command.replace("/mnt/backup", str(tmp_path)))
    if program == "./appliance":
        assert step.where == "control"
        context = understand(appliance, arguments)
        assert context.params["site"] == "shop"
    elif program == "loyalty-backup":
        assert step.where == "keeper"
        understand(loyalty_backup, arguments)
    elif program.endswith("ansible-playbook"):
        assert (CHECKOUT / arguments[-1]).is_file()
    else:
        assert program == "cat"


def test_a_wrong_option_would_be_noticed() -> None:
    with pytest.raises(click.UsageError):
        understand(appliance, ["restore", "--instant", "latest"])


def test_every_command_of_the_runbook_can_be_rehearsed() -> None:
    """A block of commands without its comment would never be."""
    text = RUNBOOK.read_text(encoding="utf-8")
    blocks = re.findall(r"^ *```\n(.*?)\n *```$", text, re.MULTILINE | re.DOTALL)
    typed = [line.strip() for block in blocks for line in block.splitlines()]
    assert [step.command for step in steps()] == [line for line in typed if not line.startswith("rsync ")]


def test_another_site_and_instant_stand_in_the_place_of_the_examples() -> None:
    found = steps("look-beside", site="bakery", instant="2026-12-01T00:00:00Z")
    command = "./appliance restore --to 2026-12-01T00:00:00Z --into scratch --site bakery"
    assert found == [Step("look-beside", "control", command)]
    with pytest.raises(LookupError):
        steps("no-such")
