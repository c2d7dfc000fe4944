"""The operator's verbs. Each is short here; the work is in the module that it names."""

from __future__ import annotations

import json as json_module
import os
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from loyalty import __version__
from loyalty.ops import host
from loyalty.ops.backup_cli import backup, drill, restore
from loyalty.ops.console import Step, Steps, err, out, show_error
from loyalty.ops.deploy_cli import deploy, history, releases, rollback, unlock, upgrade
from loyalty.ops.errors import Failure, Refusal
from loyalty.ops.failover_cli import failover
from loyalty.ops.lab import Lab, purge_base
from loyalty.ops.lab_cli import lab, site_option, topology_option
from loyalty.ops.options import check_option as _check_option
from loyalty.ops.options import extra_option as _extra_option
from loyalty.ops.options import extra_variables
from loyalty.ops.options import json_option as _json_option
from loyalty.ops.options import verbose_option as _verbose_option
from loyalty.ops.replica_cli import replica
from loyalty.ops.site import LAB_DIRECTORY, Site


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="appliance")
def cli() -> None:
    """A loyalty appliance on your own machines.

    \b
    Try it: a real server on this machine, with a real shop's history in it (needs root)
      sudo ./appliance up                      build, install, load, verify; repeat it as you like
      sudo ./appliance ssh                     look around on the server
      sudo ./appliance down                    remove all of it
    \b
    Run it: your own inventory in inventory/sites/NAME (start from inventory/one-box)
      ./appliance preflight --site NAME        every problem at once, each with its remedy
      ./appliance plan --site NAME             what would change
      ./appliance apply --site NAME            change it
      ./appliance failover --drill --site NAME the database's primary fails, and what clients notice of it
      ./appliance status --site NAME           how it is, on one screen; `doctor` looks deeper
      ./appliance graph --site NAME            who talks to whom
      ./appliance explain VARIABLE --site NAME what a setting means, and the line that set it
      ./appliance deploy [VERSION] --site NAME the application alone, without a failed request
      ./appliance rollback --site NAME         back to the release before; `releases` lists them
      ./appliance upgrade --site NAME          packages of the operating system, server by server
      ./appliance history --site NAME          who did what, when, and how it ended
      ./appliance backup --site NAME           take backups now; timers take them all the time
      ./appliance restore --to INSTANT ...     the database back to any second, beside the site or into it
      ./appliance drill restore --site NAME    prove that the backups can be restored, and how fast
    \b
    Work on it:
      ./appliance dev                          the application alone, as an ordinary user
      ./appliance test lint unit               what continuous integration runs, or parts of it
    \b
    Exit codes: 0 done; 1 a step failed; 2 refused before anything was changed, or called wrongly.
    Every failure says what to do next. A command that was stopped can be given again.
    """


cli.add_command(lab)
cli.add_command(failover)
cli.add_command(replica)
for verb in (deploy, rollback, releases, history, unlock, upgrade, backup, restore, drill):
    cli.add_command(verb)


@cli.command()
@site_option
@topology_option
@_verbose_option
@click.option("--no-demo", is_flag=True, help="Leave the shop's history out.")
def up(site: str, topology: str | None, verbose: bool, no_demo: bool) -> None:
    """Build servers on this machine, install everything, load the demo and verify. Safe to repeat.

    \b
    sudo ./appliance up                                          # a one-box
    sudo ./appliance up --topology three-server --site split     # three servers, beside the first
    """
    steps = Steps()
    with steps.step("1 Checking this machine") as step:
        prepare_machine(step, fresh=not Site(site).state_file.exists())
    with steps.step("2 Building the servers") as step:
        Lab(site, (), step.say, step.live, topology=topology).up()
        step.note = ", ".join(f"{name} {address}" for name, address in Site.load(site).addresses.items())
    with steps.step("3 Installing the site") as step:
        # The last step verifies, with the history in the ledger; once is enough.
        playbook("site", site, step, options=["--skip-tags", "verify"], verbose=verbose)
    if not no_demo:
        with steps.step("4 Loading a real shop's history through the API") as step:
            load_demo(site, step)
    with steps.step("5 Verifying from outside") as step:
        playbook("verify", site, step, verbose=verbose)
    out.print()
    out.print(steps.table())
    explain_access(site, with_history=not no_demo)


@cli.command()
@site_option
@click.option("--keep-base", is_flag=True, help="Keep the base system, so that the next `up` is quicker.")
def down(site: str, keep_base: bool) -> None:
    """Remove all that `up` made: server, network, secrets, files, and the base system if no other site uses it."""
    with Steps().step(f"Removing site {site}") as step:
        Lab(site, (), step.say).down()
        if not keep_base:
            purge_base()
        step.note = "nothing of it is left" if not keep_base else "the base system stays"


@cli.command()
@site_option
@_json_option
@click.option("--field", help="Print this field alone, for example api_key.")
def info(site: str, as_json: bool, field: str | None) -> None:
    """Say where the site answers, whom to trust, and the API key.

    \b
    sudo ./appliance info
    export LOYALTY_KEY=$(sudo ./appliance info --field api_key)
    """
    from loyalty.ops.info import access

    found = access(site).as_json()
    if field is not None:
        if field not in found:
            raise Refusal(f"There is no field {field}.", f"Choose from: {', '.join(found)}.")
        click.echo(found[field])
    elif as_json:
        click.echo(json_module.dumps(found, indent=2))
    else:
        for name, value in found.items():
            click.echo(f"{name:<12} {value if name != 'api_key' else '(./appliance info --field api_key)'}")


@cli.command()
@site_option
@_json_option
@_verbose_option
def status(site: str, as_json: bool, verbose: bool) -> None:
    """Show the state of a site on one screen, in seconds, also when hosts are away.

    Exit code 0: all is well (there may be notices). 1: there are problems; each is shown with what to do about it.
    2: the site could not be looked at.
    """
    show_site("status", site, as_json=as_json, verbose=verbose)


@cli.command()
@site_option
@_json_option
@_verbose_option
def doctor(site: str, as_json: bool, verbose: bool) -> None:
    """Look deeper than `status`: connections between hosts, open ports, stale services, open secrets, forecasts.

    Exit codes as `status`. Changes nothing.
    """
    show_site("doctor", site, as_json=as_json, verbose=verbose)


@cli.command()
@site_option
@_json_option
@click.option("--svg", type=click.Path(dir_okay=False, writable=True), help="Write the picture to this file.")
def graph(site: str, as_json: bool, svg: str | None) -> None:
    """Draw who talks to whom, from the inventory alone; the firewall is made from the same.

    \b
    ./appliance graph --site ha
    ./appliance graph --site shop --svg shop.svg
    """
    from loyalty.ops import graph as drawing
    from loyalty.ops.topology import topology

    found = topology(site)
    if svg:
        Path(svg).write_text(drawing.svg(found), encoding="utf-8")
    if as_json:
        click.echo(json_module.dumps(asdict(found), indent=2))
    elif svg:
        click.echo(f"Written to {svg}.")
    else:
        click.echo(drawing.text(found))


@cli.command()
@click.argument("variable")
@site_option
@_json_option
def explain(variable: str, site: str, as_json: bool) -> None:
    """Explain VARIABLE: its meaning, its default, its value on each host, and the file and line that set it.

    \b
    ./appliance explain storage_path --site shop
    """
    from loyalty.ops import explain as explaining

    found = explaining.explain(variable, site)
    if as_json:
        click.echo(json_module.dumps(asdict(found), indent=2, default=str))
    else:
        click.echo("\n".join(explaining.lines(found)))


@cli.command()
@site_option
@_verbose_option
def preflight(site: str, verbose: bool) -> None:
    """Look for everything that would make an installation fail; changes nothing on the servers.

    Without servers (before the first `up`) it looks at this machine only.
    """
    steps = Steps()
    in_lab = Site(site).state_file.exists()
    if site == "lab" or in_lab:
        with steps.step("This machine") as step:
            prepare_machine(step, fresh=not in_lab)
    if site != "lab" or in_lab:
        with steps.step(f"The servers of {site}") as step:
            playbook("preflight", site, step, verbose=verbose, show=True)


@cli.command()
@site_option
@_verbose_option
@_extra_option
def plan(site: str, verbose: bool, extra: str | None) -> None:
    """Show what `apply` would change, file by file; changes nothing."""
    with Steps().step(f"Plan for {site}") as step:
        playbook("site", site, step, extra=extra, options=["--check", "--diff"], verbose=verbose, show=True)


@cli.command()
@site_option
@_verbose_option
@_check_option
@_extra_option
def apply(site: str, verbose: bool, check: bool, extra: str | None) -> None:
    """Bring the servers of a site to what its inventory says. Safe to repeat."""
    with Steps().step(f"Applying {site}") as step:
        playbook(
            "site", site, step, extra=extra, options=["--check", "--diff"] if check else [], verbose=verbose, show=check
        )


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
    sudo ./appliance ssh                                   # a shell on box1
    sudo ./appliance ssh -- systemctl status nginx
    sudo ./appliance ssh box1 -- 'journalctl -u loyalty-jobs | tail'
    tar c . | sudo ./appliance ssh -- tar x -C /root
    """
    words = Lab(site, ()).ssh_command(host, command, terminal=not command and sys.stdin.isatty())
    sys.stdout.flush()
    os.execvp(words[0], words)  # noqa: S606 (no shell is meant)


@cli.command()
@click.option("--port", default=8080, show_default=True, help="Port on the loopback.")
def dev(port: int) -> None:
    """Run the application alone on this machine, as an ordinary user; prints a key. Ctrl-C stops it."""
    from loyalty.ops import environment

    if environment.missing([environment.APPLICATION]):
        with Steps().step("The application's packages (once)"):
            environment.install([environment.APPLICATION])
    from loyalty.ops.dev import serve

    serve(port)


@cli.command()
@click.argument("sections", nargs=-1)
@_verbose_option
@click.option("--list", "only_list", is_flag=True, help="Show the sections and what each proves.")
@click.option("--all", "everything", is_flag=True, help="Also the sections that are too long for each change.")
def test(sections: tuple[str, ...], verbose: bool, only_list: bool, everything: bool) -> None:
    """Run the tests: those of continuous integration, or the SECTIONS that you name.

    \b
    ./appliance test lint unit       # seconds
    sudo ./appliance test            # what runs for each change; molecule builds servers in the lab
    sudo ./appliance test --all      # also the long ones
    """
    from loyalty.ops import environment, suite

    wanted = suite.chosen(sections, everything=everything)
    if only_list:
        for section in wanted:
            click.echo(f"{section.name:<12} {section.proves}")
        return
    if any(section.lane is suite.Lane.LAB for section in wanted):
        host.refuse_problems(host.check_basics())
    needed = [environment.APPLICATION, environment.TESTS]
    if environment.missing(needed):
        with Steps().step("The application's and the tests' packages (once)"):
            environment.install(needed)
    if missing := suite.missing_packages(wanted):
        with Steps().step(f"Installing with apt: {' '.join(missing)}"):
            host.refuse_problems(host.check_basics())
            host.install_packages(missing)
    results = suite.run_sections(wanted, verbose=verbose)
    failed = sum(not result.ok for result in results)
    out.print()
    out.print(suite.summary(results))
    for line in suite.named(results):
        out.print(line, markup=False, style="yellow")
    out.print(f"\nchecks: {len(results) - failed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


def prepare_machine(step: Step, *, fresh: bool) -> None:
    """Check this machine for the lab and install what it lacks."""
    host.refuse_problems(host.check_basics())
    if missing := host.missing_packages():
        step.say(f"installing with apt: {' '.join(missing)}")
        host.install_packages(missing)
    findings = host.check_lab(LAB_DIRECTORY, fresh=fresh)
    for finding in findings:
        step.say(f"{finding.subject}: {finding.found}")
    host.refuse_problems(findings)


def playbook(name: str, site: str, step: Step, *, extra: str | None = None, **options: Any) -> None:
    """Run a playbook; ``extra`` is the operator's JSON."""
    from loyalty.ops.ansible import run_playbook

    run_playbook(name, site, step, extra=extra_variables(extra), **options)


def load_demo(site: str, step: Step) -> None:
    """Load the shop's history, with a bar; a site that has it already gets nothing new."""
    from loyalty.ops import demo
    from loyalty.ops.info import access

    found = access(site)
    with step.bar() as bar:
        loaded = demo.load(url=found.url, ca_file=found.ca_file, api_key=found.api_key, progress=bar)
    step.note = f"{loaded.events:,} purchases of {loaded.members:,} members, {loaded.points:,} points"
    if not loaded.applied:
        step.note += " (all known before)"


def show_site(name: str, site: str, *, as_json: bool, verbose: bool) -> None:
    """Look at a site with the playbook `name` and show what it saw; 1 when something is wrong."""
    from loyalty.ops.look import look

    with Steps(console=err if as_json else out).step(f"Looking at {site}") as step:
        seen = look(name, site, step, verbose=verbose)
    if as_json:
        click.echo(json_module.dumps(seen, indent=2))
    else:
        out.print()
        out.print(seen["screen"], markup=False)
    if not seen["ok"]:
        sys.exit(1)


def explain_access(site: str, *, with_history: bool) -> None:
    """Print where to look, and lines that can be copied and pasted."""
    from loyalty.ops.info import access

    found = access(site)
    option = "" if site == "lab" else f" --site {site}"
    member = "ext:00001" if with_history else "ext:alice"
    event = json_module.dumps({
        "source": "till", "id": "1", "type": "purchase", "member": {"external_id": member.removeprefix("ext:")},
        "occurred_at": "2026-01-31T12:00:00Z", "amount": "11.77", "currency": "USD",
    })  # fmt: skip
    curl = f'curl --cacert {shlex.quote(found.ca_file)} -H "Authorization: Bearer $LOYALTY_KEY"'
    out.print(
        f"""
The site is up: {found.url}
  documentation   {found.docs_url}
  console         {found.console_url}
  secrets         {found.vault_file} (encrypted; the password file is beside it)
  a shell         ./appliance ssh{option}

Try it:
  export LOYALTY_KEY=$(./appliance info{option} --field api_key)
  {curl} {found.url}/v1/events -H "Content-Type: application/json" -d '{event}'
  {curl} {found.url}/v1/members/{member}/balance
  {curl} '{found.url}/v1/members?limit=3'
""",
        markup=False,
    )


def main() -> None:
    """Run the command line; every error ends with its remedy and the exit code that the help promises."""
    try:
        cli.main(prog_name="appliance", standalone_mode=False)
    except (Failure, Refusal) as error:
        sys.exit(show_error(error))
    except PermissionError as error:
        sys.exit(show_error(Refusal(f"{error.filename} may not be read or written by you.", "Run the same with sudo.")))
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (KeyboardInterrupt, click.Abort):
        err.print("\nStopped. Give the same command again to go on.")
        sys.exit(130)
