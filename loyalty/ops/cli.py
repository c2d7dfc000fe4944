"""The operator's verbs. Each is short here; the work is in the module that it names."""

from __future__ import annotations

import os
import sys

import click

from loyalty import __version__
from loyalty.ops.console import err, show_error
from loyalty.ops.errors import Failure, Refusal
from loyalty.ops.lab import Lab
from loyalty.ops.lab_cli import lab, site_option


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="appliance")
def cli() -> None:
    """Run a loyalty appliance on your own machines."""


cli.add_command(lab)


class _RemoteCommand(click.Command):
    """Leaves everything after ``--`` alone: click would drop the mark and read on."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        at = args.index("--") if "--" in args else len(args)
        ctx.obj = args[at + 1 :]
        return super().parse_args(ctx, args[:at])


@cli.command(cls=_RemoteCommand)
@site_option
@click.argument("host", default="box1")
@click.pass_obj
def ssh(command: list[str], site: str, host: str) -> None:
    """Run a command as root on a lab server; without one, open a shell.

    The exit code of the command is passed on, and so is standard input.

    \b
    ./appliance ssh                                   # a shell on box1
    ./appliance ssh -- systemctl status nginx
    ./appliance ssh box1 -- 'journalctl -u loyalty-jobs | tail'
    tar c . | ./appliance ssh -- tar x -C /root
    """
    words = Lab(site, ()).ssh_command(host, command, terminal=not command and sys.stdin.isatty())
    sys.stdout.flush()
    os.execvp(words[0], words)


def main() -> None:
    """Run the command line; every error ends with its remedy and the exit code that the help promises."""
    try:
        cli(prog_name="appliance")
    except (Failure, Refusal) as error:
        sys.exit(show_error(error))
    except KeyboardInterrupt:
        err.print("\nStopped. Run the same command again to go on.")
        sys.exit(130)
