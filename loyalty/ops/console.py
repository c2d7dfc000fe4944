"""What the operator sees: each step with its name, what happens now, and how long it took."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.status import Status
from rich.table import Table

from loyalty.ops.errors import Failure, Refusal

out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 120)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def duration(seconds: float) -> str:
    """Return a duration as people say it.

    >>> duration(0.42), duration(75)
    ('0.4 s', '1 min 15 s')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"


@dataclass
class Step:
    """A step under way. `say` announces a part of it; `live` shows what happens at this moment."""

    title: str
    note: str = ""
    console: Console = out
    _status: Status | None = None
    _last: str = ""

    def say(self, line: str) -> None:
        """Print a line that stays."""
        self.console.print(f"  [dim]{escape(line)}[/dim]")

    def live(self, line: str) -> None:
        """Show a line that the next one replaces (on a terminal; elsewhere nothing)."""
        if self._status and line != self._last:
            self._last = line
            self._status.update(f"{escape(self.title)} [dim]{escape(line[: max(20, self.console.width - 30)])}[/dim]")

    @contextmanager
    def bar(self) -> Iterator[Callable[[int, int], None]]:
        """Hand out a function (done, total) that moves a bar; without a terminal it prints a line every tenth."""
        if self._status is None:
            tenths = 0

            def report(done: int, total: int) -> None:
                nonlocal tenths
                if total and done * 10 // total > tenths:
                    tenths = done * 10 // total
                    self.say(f"{done:,} of {total:,}")

            yield report
            return
        self._status.stop()  # a terminal has room for one moving thing
        columns = (TextColumn("  "), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self.console, transient=True) as progress:
            task = progress.add_task("", total=None)
            yield lambda done, total: progress.update(task, completed=done, total=total)
        self._status.start()


@dataclass
class Steps:
    """The steps of one command, with a table of durations at the end.

    Where standard output is for a script, the console is `err`.
    """

    console: Console = out
    done: list[tuple[str, str, float]] = field(default_factory=list)

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """Announce a step, and say how long it took when it is over, well or badly."""
        started = time.monotonic()
        step = Step(title, console=self.console)
        self.console.print(f"[bold]{escape(title)}[/bold]")
        try:
            if self.console.is_terminal:
                with self.console.status(escape(title)) as status:
                    step._status = status
                    yield step
            else:
                yield step
        except BaseException as error:
            took = time.monotonic() - started
            end = "stopped" if isinstance(error, KeyboardInterrupt) else "failed"
            self.done.append((title, end, took))
            self.console.print(f"  [red]{end}[/red] after {duration(took)}")
            raise
        took = time.monotonic() - started
        self.done.append((title, step.note or "done", took))
        self.console.print(
            f"  [green]done[/green] in {duration(took)}" + (f" · {escape(step.note)}" if step.note else "")
        )

    def table(self) -> Table:
        """Return the table of all steps and how long each took."""
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("step")
        table.add_column("result")
        table.add_column("took", justify="right")
        for title, result, took in self.done:
            table.add_row(escape(title), escape(result), duration(took))
        table.add_row("[bold]all[/bold]", "", f"[bold]{duration(sum(took for *_, took in self.done))}[/bold]")
        return table


def show_error(error: Failure | Refusal) -> int:
    """Print what went wrong and what to do about it; return the exit code."""
    refused = isinstance(error, Refusal)
    err.print(f"[red bold]{'refused' if refused else 'failed'}[/red bold]")
    if isinstance(error, Failure) and error.details:
        err.print(escape(error.details), style="dim")
    for line in error.problem.splitlines():
        err.print(f"  {escape(line)}")
    for line in error.remedy.splitlines():
        err.print(f"  [bold]do:[/bold] {escape(line)}")
    return 2 if refused else 1
