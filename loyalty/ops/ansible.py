"""Run a playbook: the operator sees the play and the task of the moment, a log keeps everything."""

from __future__ import annotations

import json
import re
import shlex
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loyalty.ops.console import Step, out
from loyalty.ops.environment import BIN, tool_environment
from loyalty.ops.errors import Failure, Refusal
from loyalty.ops.process import follow
from loyalty.ops.site import CHECKOUT, Site, check_name

_HEADING = re.compile(r"^(PLAY|TASK|RUNNING HANDLER) \[(.*)\] \*+$")
_TOTALS = re.compile(r"^(\S+)\s+: ok=(\d+)\s+changed=(\d+)\s+unreachable=(\d+)\s+failed=(\d+)")


@dataclass
class Progress:
    """What the output of a playbook has told so far."""

    play: str = ""
    task: str = ""
    tasks: int = 0
    failed_task: str = ""
    failure: list[str] = field(default_factory=list)
    changed: dict[str, int] = field(default_factory=dict)
    _in_failure: bool = False

    def read(self, line: str) -> None:
        """Take the next line of output."""
        if heading := _HEADING.match(line):
            self._in_failure = False
            kind, name = heading.groups()
            if kind == "PLAY":
                self.play, self.task = name, ""
            else:
                self.task = name
                self.tasks += 1
        elif line.startswith(("fatal: [", "failed: [")):
            # Newer versions report a failed task twice; this second time names the host and is complete.
            self.failed_task = self.task  # others may follow, to tidy up
            self.failure = [f"TASK [{self.task}]", line]
            self._in_failure = True
        elif line.startswith(("[ERROR]", "ERROR!")):
            self.failure = [line]
            self._in_failure = True
        elif totals := _TOTALS.match(line):
            self._in_failure = False
            self.changed[totals[1]] = int(totals[3])
        elif line.startswith(("PLAY RECAP", "ok: [", "changed: [", "skipping: [")):
            self._in_failure = False
        elif self._in_failure:
            self.failure.append(line)

    @property
    def summary(self) -> str:
        """Say how many tasks ran and what changed."""
        hosts = ", ".join(f"{host} {count} changed" for host, count in self.changed.items() if host != "localhost")
        return f"{self.tasks} tasks" + (f" · {hosts}" if hosts else "")


class Stopped(Failure):
    """A playbook failed; ``progress`` is how far it came."""

    def __init__(self, problem: str, remedy: str, details: str, progress: Progress) -> None:
        super().__init__(problem, remedy, details)
        self.progress = progress


def inventories(site: str) -> list[str]:
    """Return the inventories of a site, relative to the checkout: a lab's, or the operator's own."""
    check_name("site", site)
    if Site(site).state_file.exists():
        return [f"inventory/{Site.load(site).topology}", str(Site(site).inventory.relative_to(CHECKOUT))]
    for folder in (f"inventory/sites/{site}", f"inventory/{site}"):
        if any((CHECKOUT / folder / name).exists() for name in ("hosts.yml", "hosts.ini", "hosts")):
            return [folder]
    raise Refusal(
        f"There is no site {site}: neither a lab site nor a hosts.yml in inventory/sites/{site} or inventory/{site}.",
        f"./appliance lab up --site {site}, or copy inventory/one-box to inventory/sites/{site} and edit it.",
    )


def command_line(
    name: str, site: str, *, extra: Mapping[str, Any] | None = None, options: Sequence[str] = ()
) -> list[str]:
    """Return the line that runs playbook ``name`` on a site, as it can be typed in the checkout."""
    line = [".venv/bin/ansible-playbook"]
    for inventory in inventories(site):
        line += ["-i", inventory]
    if extra:
        line += ["--extra-vars", json.dumps(dict(extra))]  # JSON keeps types; key=value would make all of it text
    return [*line, *options, f"playbooks/{name}.yml"]


def run_playbook(
    name: str,
    site: str,
    step: Step,
    *,
    extra: Mapping[str, Any] | None = None,
    options: Sequence[str] = (),
    verbose: bool = False,
    show: bool = False,
    quiet: bool = False,
) -> Progress:
    """Run a playbook and return what it did. Raises Stopped with the task that failed and the next thing to type.

    ``verbose`` streams the whole output. ``show`` prints what the plays had to say at the end (tables of `status`,
    differences of `plan`). ``quiet`` leaves standard output to the caller's JSON.
    """
    line = command_line(name, site, extra=extra, options=options)
    if not quiet:
        step.say(f"$ {shlex.join(line)}")
    log = _log_directory(site) / f"{time.strftime('%Y%m%d-%H%M%S')}-{name}.log"
    progress = Progress()
    kept: deque[str] = deque(maxlen=5000)

    def read(text: str) -> None:
        progress.read(text.rstrip("\n"))
        kept.append(text)
        if verbose:
            out.print(text, end="", markup=False)
        step.live(f"{progress.play} · {progress.task}")

    with log.open("w", buffering=1) as stream:  # whoever follows the log sees each line
        ansible = [str(BIN / "ansible-playbook"), *line[1:]]
        environment = tool_environment() | {"ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0"}
        code = follow(ansible, cwd=CHECKOUT, env=environment, log=stream, each=read)
    if show and not verbose:
        for text in messages(kept):
            out.print(text, markup=False)
    if code != 0:
        raise Stopped(
            f"The playbook {name} failed in play “{progress.play}”, "
            f"task “{progress.failed_task or progress.task}” (log: {log}).",
            f"Mend the cause, then give the same command again. All output: less {log}",
            "" if show else "\n".join(_last_words(progress, kept)),
            progress,
        )
    step.note = progress.summary
    return progress


def _log_directory(site: str) -> Path:
    lab = Site(site)
    directory = lab.logs if lab.state_file.exists() else CHECKOUT / ".cache" / "logs" / site
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    return directory


def _last_words(progress: Progress, kept: Iterable[str]) -> list[str]:
    lines = [line for line in progress.failure if line.strip()] or [line.rstrip("\n") for line in kept][-20:]
    return lines[:40]


def messages(output: Iterable[str]) -> Iterator[str]:
    """Return what the plays had to say: tables, and what changed with its difference, under the name of its task."""
    task, named = "", True
    for text in output:
        line = text.rstrip("\n")
        if heading := _HEADING.match(line):
            task, named = heading[2], False
        elif not line or line == "    msg: |-" or _TOTALS.match(line) or line.startswith(_ROUTINE):
            continue
        elif line.startswith("        "):
            yield line[8:]  # a message, as deep as the result that it stood in
        else:
            if not named:
                yield task
                named = True
            yield f"  {line}"


_ROUTINE = ("ok: [", "skipping: [", "included: ", "PLAY RECAP")
