"""Everything that must hold before a change is taken: the same here and in continuous integration.

`SECTIONS` is the whole list. The quick ones come first, one after the other; then those that start servers as
processes of this machine, and beside them those that build servers in the lab
(docs/decisions/0035-the-lab-beside-the-other-tests.md).
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from loyalty.ops.console import duration, out
from loyalty.ops.environment import tool_environment
from loyalty.ops.errors import Refusal
from loyalty.ops.process import follow
from loyalty.ops.site import CHECKOUT


@dataclass(frozen=True)
class Check:
    """One command: exit code 0 is good."""

    name: str
    command: str


class Lane(Enum):
    """Sections of one lane follow each other."""

    QUICK = "before anything else"
    LOCAL = "servers as processes of this machine"
    LAB = "servers in the lab, which needs root"


@dataclass(frozen=True)
class Section:
    """Checks that belong together; they may run side by side."""

    name: str
    proves: str
    checks: tuple[Check, ...]
    lane: Lane = Lane.QUICK
    is_long: bool = False
    """Runs only when it is named, or with ``--all``: too long for each change."""


_PYTEST = "python -m pytest -q --durations=5"

# Where servers are killed, hung and raced against each other, a second that was missed is measured again, once, and
# said; a wrong answer never is (docs/decisions/0034-a-missed-second-is-measured-again.md).
_TIMED = f"{_PYTEST} -raR --reruns 1 --only-rerun '^(TooSlow|ServerError|[A-Za-z]*Timeout[A-Za-z]*): '"

# The lab's servers yield to the tests beside them: those count seconds.
_MOLECULE = "nice -n 5 molecule test --scenario-name"
_SHELL_FILES = "git ls-files -z | xargs -0 grep -lIE '^#!.*[ /](ba)?sh( |$)' -- | xargs -n1 bash -n"

# Vagrant is an offer to developers with a hypervisor; where apt has no such package its file goes unchecked.
_VAGRANT = (
    "command -v vagrant || apt-get install --yes --no-install-recommends --option=DPkg::Lock::Timeout=600 vagrant"
    " || { echo 'not to be had'; exit 0; };"
    " vagrant validate --ignore-provider"
)

SECTIONS = (
    Section("lint", "style, types, dependency rule, playbooks", (
        Check("ruff", "ruff check ."),
        Check("format", "ruff format --check ."),
        Check("imports", "lint-imports"),
        Check("shell", _SHELL_FILES),
        Check("yaml", "yamllint ."),
        Check("mypy", "mypy"),
        Check("ansible", "ansible-lint"),
    )),
    Section("unit", "arithmetic and pure parts, with generated cases", (Check("unit", f"{_PYTEST} -n 2 tests/unit"),)),
    Section("model", "the engine against a second, naive model, on random programs and histories (short)", (
        Check("model", f"{_PYTEST} -n 2 tests/model"),
    )),
    Section("templates", "every template, for both distributions; the project's policies", (
        Check("templates", f"{_PYTEST} -n 2 tests/templates tests/policy"),
        Check("vagrant", _VAGRANT),
    )),
    Section("integration", "storage against a real replica set and Redis", (
        Check("integration", f"{_TIMED} -n 2 tests/integration tests/sharding"),
    ), lane=Lane.LOCAL),
    Section("api", "the contract over HTTP, also with generated requests", (
        Check("api", f"{_TIMED} -n 2 tests/api tests/web"),
    ), lane=Lane.LOCAL),
    Section("concurrency", "nothing overspent, lost or doubled by many processes over few members (short)", (
        Check("concurrency", f"{_TIMED} tests/concurrency"),
    ), lane=Lane.LOCAL),
    Section("faults", "nothing lost, doubled or contradicted in a cluster under attack (short)", (
        Check("faults", f"{_TIMED} tests/faults"),
    ), lane=Lane.LOCAL),
    Section("molecule", "the one-box in the lab: install, again, from outside", (
        Check("one-box", f"{_MOLECULE} one-box"),
    ), lane=Lane.LAB),
    Section("three-server", "three servers: members are lost under load; then everything is, and comes back", (
        Check("three-server", f"{_MOLECULE} three-server"),
    ), lane=Lane.LAB),
    Section("runbook", "every loss that the operator's runbook knows, made and mended word for word", (
        Check("runbook", f"{_MOLECULE} runbook"),
    ), lane=Lane.LAB, is_long=True),
    Section("bare-metal", "everything is lost but the drive and the password; one command brings the site back", (
        Check("bare-metal", f"{_MOLECULE} bare-metal"),
    ), lane=Lane.LAB, is_long=True),
    Section("two-server", "the application on one server, its database on another", (
        Check("two-server", f"{_MOLECULE} two-server"),
    ), lane=Lane.LAB, is_long=True),
    Section("ha", "a highly available site in the lab, and what its clients notice while hosts and services are lost", (
        Check("ha", f"{_MOLECULE} ha"),
    ), lane=Lane.LAB, is_long=True),
    Section("growth", "a site grows from one-box to ha under load, and no point is lost", (
        Check("growth", f"{_MOLECULE} growth"),
    ), lane=Lane.LAB, is_long=True),
)  # fmt: skip

_TOOLS = (
    ("nginx", "nginx", {"templates", "faults"}),
    ("haproxy", "haproxy", {"faults"}),
    ("systemd-analyze", "systemd", {"templates"}),
    ("redis-server", "redis-server", {"integration", "api", "faults"}),
    ("chromium", "chromium", {"api"}),
    ("rsync", "rsync", {"integration"}),
    ("borg", "borgbackup", {"integration"}),
    ("faketime", "faketime", {"integration"}),
    ("mkfs.xfs", "xfsprogs", {"integration"}),
)

_NAMED = re.compile(r"^(?:FAILED|ERROR|RERUN) .*", re.MULTILINE)
_CLOSING = re.compile(r"^=*\s*(\d+ (?:passed|failed|error).* in [\d.]+s.*?)\s*=*$", re.MULTILINE)


@dataclass(frozen=True)
class Result:
    """How one check went."""

    section: str
    check: Check
    ok: bool
    seconds: float
    note: str
    log: Path


def chosen(names: Sequence[str], *, everything: bool = False) -> list[Section]:
    """Return the sections that were asked for, in the order of the table.

    Without a name: those that are not long, or ``everything``.
    """
    known = [section.name for section in SECTIONS]
    if unknown := [name for name in names if name not in known]:
        raise Refusal(f"There is no section {', '.join(unknown)}.", f"Choose from: {', '.join(known)}.")
    return [
        section for section in SECTIONS if section.name in names or (not names and (everything or not section.is_long))
    ]


def missing_packages(sections: Sequence[Section]) -> list[str]:
    """Return the system packages that the sections need and this machine lacks: no test is skipped for want of one."""
    # Debian keeps administration tools out of an ordinary user's PATH.
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    names = {section.name for section in sections}
    return [
        package for tool, package, needed_by in _TOOLS if needed_by & names and shutil.which(tool, path=path) is None
    ]


def run_sections(sections: Sequence[Section], *, verbose: bool) -> list[Result]:
    """Run the sections and print each result as it comes; return all of them."""
    logs = CHECKOUT / ".cache" / "test-logs"
    shutil.rmtree(logs, ignore_errors=True)
    logs.mkdir(parents=True)

    def follow_each_other(lane: Lane) -> list[Result]:
        return [
            result for section in sections if section.lane is lane for result in _run_section(section, logs, verbose)
        ]

    results = follow_each_other(Lane.QUICK)
    with ThreadPoolExecutor(max_workers=1 if verbose else 2) as pool:
        for found in pool.map(follow_each_other, (Lane.LOCAL, Lane.LAB)):
            results += found
    return results


def summary(results: Sequence[Result]) -> Table:
    """Return the table at the end."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("section", "check", "result"):
        table.add_column(column)
    table.add_column("took", justify="right")
    table.add_column("", style="dim")
    for result in results:
        verdict = "[green]passed[/green]" if result.ok else "[red]FAILED[/red]"
        table.add_row(result.section, result.check.name, verdict, duration(result.seconds), escape(result.note))
    return table


def named(results: Sequence[Result]) -> list[str]:
    """Return a line for each test that failed, or passed only when it was tried again, as pytest sums them up."""
    logs = [(result, result.log.read_text(errors="replace")) for result in results]
    return [f"{result.section}: {line[:300]}" for result, log in logs for line in _NAMED.findall(log)]


def _run_section(section: Section, logs: Path, verbose: bool) -> list[Result]:
    out.print(f"[bold]{section.name}[/bold] [dim]{section.proves}[/dim]")
    results = []
    with ThreadPoolExecutor(max_workers=1 if verbose else 2) as pool:
        for job in [pool.submit(_run, section.name, check, logs, verbose) for check in section.checks]:
            results.append(job.result())
            _show(results[-1])
    return results


def _run(section: str, check: Check, logs: Path, verbose: bool) -> Result:
    log = logs / f"{section}-{check.name}.log"
    started = time.monotonic()
    with log.open("w") as stream:
        stream.write(f"$ {check.command}\n")
        stream.flush()

        def read(line: str) -> None:
            if verbose:
                out.print(line, end="", markup=False)

        shell = ["/bin/bash", "-o", "pipefail", "-c", check.command]
        code = follow(shell, cwd=CHECKOUT, env=tool_environment() | {"NO_COLOR": "1"}, log=stream, each=read)
    closing = _CLOSING.findall(log.read_text(errors="replace"))
    note = closing[-1] if closing else "" if code == 0 else f"exit code {code}"
    return Result(section, check, code == 0, time.monotonic() - started, note, log)


def _show(result: Result) -> None:
    verdict = "[green]passed[/green]" if result.ok else "[red]FAILED[/red]"
    out.print(f"  {result.check.name:<12} {verdict} in {duration(result.seconds)}  [dim]{escape(result.note)}[/dim]")
    if not result.ok:
        tail = result.log.read_text(errors="replace").splitlines()[-60:]
        out.print("\n".join(f"    {line}" for line in tail), markup=False)
        out.print(f"    again: PATH=.venv/bin:$PATH {result.check.command}   log: {result.log}", markup=False)
