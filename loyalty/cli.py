"""The operator's commands: thin, each calls the function that the HTTP API or the jobs call too.

Settings come from the environment and the credentials as for the server; secrets never from arguments, which
every user of the machine can read. Exit codes: 0 done, 1 refused or found wrong, 2 the command or the
configuration is wrong.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click
from pymongo.errors import OperationFailure, PyMongoError

from loyalty import __version__
from loyalty.config import Settings, SettingsError, load_settings
from loyalty.infra.clock import system_clock
from loyalty.infra.problems import Problem

if TYPE_CHECKING:
    from loyalty.infra.mongo import Mongo


class Failed(click.ClickException):
    """The command did not do what was asked; the message says why and what to do."""

    exit_code = 1


class Tool:
    """What commands share: the settings, read on first use, and one connection."""

    def __init__(self) -> None:
        self._settings: Settings | None = None

    @property
    def settings(self) -> Settings:
        """The settings; a mistake in them ends the command with 2."""
        if self._settings is None:
            try:
                self._settings = load_settings()
            except SettingsError as error:
                click.echo(str(error), err=True)
                sys.exit(2)
        return self._settings

    def database(self) -> Mongo:
        """A connection for scans that may take minutes."""
        from loyalty.infra.mongo import connect

        return connect(
            self.settings.mongo_uri.get_secret_value(),
            self.settings.mongo_database,
            serves_requests=False,
            pool=8,
        )


class Commands(click.Group):
    """A group whose commands end with one sentence, not a traceback, when the database or a rule says no."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except Problem as problem:
            raise Failed(_sentences(problem)) from None
        except OperationFailure as error:
            reason = (error.details or {}).get("errmsg") or str(error)
            if error.code in (13, 18):
                remedy = "The user in LOYALTY_MONGO_URI may not do this; `migrate` needs the migrator's URI."
            else:
                remedy = "See the log of mongod."
            raise Failed(f"MongoDB refused: {reason}\n{remedy}") from None
        except PyMongoError as error:
            raise Failed(
                f"MongoDB does not answer: {str(error)[:300]}\n"
                "Check that mongod runs (systemctl status mongod) and that LOYALTY_MONGO_URI names it."
            ) from None


def _sentences(problem: Problem) -> str:
    lines = [f"{problem.title}. {problem.detail}"]
    lines += [f"  {error.get('pointer', '')}: {error['detail']}" for error in problem.extra.get("errors", [])]
    return "\n".join(lines)


def _progress(wanted: bool | None) -> Callable[[int, int], None] | None:
    """A line on stderr that `f(done, total)` keeps up to date; None where nobody watches."""
    if wanted is None:
        wanted = sys.stderr.isatty()
    if not wanted:
        return None

    def show(done: int, total: int) -> None:
        percent = 100 * done // total if total else 100
        end = "\n" if done >= total else ""
        if sys.stderr.isatty():
            click.echo(f"\r{done:,} of {total:,} entries ({percent} %)", nl=False, err=True)
            click.echo(end, nl=False, err=True)
        else:
            click.echo(f"{done} of {total} entries ({percent} %)", err=True)

    return show


_progress_option = click.option(
    "--progress/--no-progress", default=None, help="Show progress on stderr. Default: when it is a terminal."
)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="loyalty")
@click.pass_context
def main(ctx: click.Context) -> None:
    """Operate the loyalty application of this server.

    Settings are read from LOYALTY_* variables and from $CREDENTIALS_DIRECTORY, as the server reads them. On a
    server use the command `loyalty`, which sets both up.

    \b
    A new installation:
      loyalty migrate                                    collections and indexes (migrator's URI)
      loyalty program create cdnow --name "CDNOW" --currency USD --timezone UTC
      loyalty key create cdnow --name till --scope events:write --scope members:read
    \b
    Every day:
      loyalty status                                     numbers, jobs, peers
      loyalty ledger verify                              proof that nothing was changed
    """
    ctx.obj = Tool()


@main.group()
def jobs() -> None:
    """Background work."""


@jobs.command("run")
@click.pass_obj
def jobs_run(tool: Tool) -> None:
    """Run the jobs until SIGTERM, whenever this process holds the lease.

    Several nodes may run this; one works, the others stand by and take over within seconds. `loyalty status`
    shows what ran when. MongoDB may be away at the start and later: the process waits for it.
    """
    from loyalty.infra.logging import configure_logging
    from loyalty.jobs.schedule import JOBS
    from loyalty.jobs.worker import Worker, run_until_signalled

    configure_logging(tool.settings)
    run_until_signalled(Worker(tool.database(), tool.settings, system_clock, JOBS))


@main.command()
@click.pass_obj
def openapi(tool: Tool) -> None:
    """Print the OpenAPI 3.1 document of the HTTP API."""
    from loyalty.app import create_app

    answer = create_app(tool.settings).test_client().get("/v1/openapi.json")
    click.echo(answer.get_data(as_text=True))
