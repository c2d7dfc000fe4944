"""`./appliance lab ...`: servers by name, for tests and for trying a role."""

from __future__ import annotations

import json as json_module

import click
from rich.table import Table

from loyalty.ops.console import Steps, out
from loyalty.ops.lab import Direction, Lab
from loyalty.ops.site import Site, sites, topologies

site_option = click.option(
    "--site",
    default="lab",
    show_default=True,
    envvar="LOYALTY_SITE",
    help="Name of the site; several can live side by side.",
)
topology_option = click.option(
    "--topology",
    type=click.Choice(topologies()),
    show_default="the one that the site has; one-box at first",
    help="Example inventory that the site follows: its hosts are built.",
)
_host_option = click.option("--host", "hosts", multiple=True, help="Only this server of the topology; repeat for more.")
_one_host_option = click.option("--host", required=True, help="Inventory name of the server.")


@click.group()
def lab() -> None:
    """Servers of a lab site: real systemd machines on this computer, reached by SSH.

    \b
    ./appliance lab up --site trial --topology three-server
    ./appliance ssh --site trial box1 -- systemctl --failed
    ansible -i inventory/one-box -i .lab/sites/trial/inventory all -m ping
    ./appliance lab kill --site trial --host box1      # power cut
    ./appliance lab boot --site trial --host box1      # and its recovery
    ./appliance lab freeze --site trial --host db1     # also: partition, slow
    ./appliance lab heal --site trial
    ./appliance lab down --site trial
    """


@lab.command()
@site_option
@topology_option
@_host_option
def up(site: str, topology: str | None, hosts: tuple[str, ...]) -> None:
    """Make and boot the servers of a topology. Safe to repeat; what runs already is left alone."""
    with Steps().step(f"Servers of site {site}") as step:
        Lab(site, hosts, step.say, step.live, topology=topology).up()
        step.note = ", ".join(f"{name} {address}" for name, address in Site.load(site).addresses.items())


@lab.command()
@site_option
def down(site: str) -> None:
    """Remove the site's servers, network, keys and files. The base system stays for the next site."""
    with Steps().step(f"Removing site {site}") as step:
        Lab(site, (), step.say).down()


@lab.command()
@site_option
@_one_host_option
def kill(site: str, host: str) -> None:
    """Cut the power of a server: SIGKILL to everything in it. Its disk stays."""
    with Steps().step(f"Cutting the power of {host}"):
        Lab(site, (host,)).kill(host)


@lab.command()
@site_option
@_one_host_option
def boot(site: str, host: str) -> None:
    """Switch a server on and wait until SSH answers."""
    with Steps().step(f"Booting {host}") as step:
        Lab(site, (host,), step.say).boot(host)


@lab.command()
@site_option
@_one_host_option
def wipe(site: str, host: str) -> None:
    """Put a new server in the place of one: same name and address, an empty disk."""
    with Steps().step(f"Replacing {host}") as step:
        Lab(site, (host,), step.say).wipe(host)


@lab.command()
@site_option
@_one_host_option
def freeze(site: str, host: str) -> None:
    """Let a server hang: everything in it stops where it stands, connections stay open and silent."""
    with Steps().step(f"Freezing {host}"):
        Lab(site).freeze(host)


@lab.command()
@site_option
@_one_host_option
def thaw(site: str, host: str) -> None:
    """Let a frozen server go on."""
    with Steps().step(f"Thawing {host}"):
        Lab(site).thaw(host)


@lab.command()
@site_option
@_one_host_option
@click.option("--from", "others", multiple=True, help="Only from this server; repeat for more (default: all others).")
@click.option("--direction", type=click.Choice(["both", "in", "out"]), default="both", show_default=True)
@click.option("--percent", type=click.IntRange(1, 100), default=100, show_default=True, help="Lose so many frames.")
def partition(site: str, host: str, others: tuple[str, ...], direction: Direction, percent: int) -> None:
    """Cut a server off from others of its site. You still reach all of them.

    \b
    ./appliance lab partition --host db1                             # from everybody
    ./appliance lab partition --host db1 --from db2 --direction out  # db2 does not hear db1, db1 hears db2
    ./appliance lab partition --host db1 --percent 5
    """
    with Steps().step(f"Cutting {host} off from {', '.join(others) or 'everybody'}"):
        Lab(site).partition(host, others, direction=direction, percent=percent)


@lab.command()
@site_option
@_one_host_option
@click.option("--milliseconds", default=200.0, show_default=True, help="Added to each round trip.")
@click.option("--loss", default=0.0, show_default=True, help="Frames lost, in percent.")
def slow(site: str, host: str, milliseconds: float, loss: float) -> None:
    """Give a server a slow connection that loses frames."""
    with Steps().step(f"Slowing {host} down"):
        Lab(site).slow(host, milliseconds=milliseconds, loss_percent=loss)


@lab.command()
@site_option
@_one_host_option
@click.option("--at", required=True, help="A directory of the server. Stop the service that uses it first.")
@click.option("--mib", default=1024, show_default=True, help="Size of the disk.")
def disk(site: str, host: str, at: str, mib: int) -> None:
    """Put a directory of a running server on a small disk of its own, with what is in it. A reboot takes it away."""
    with Steps().step(f"A disk of {mib} MiB at {at} of {host}"):
        Lab(site).disk(host, at, mib=mib)


@lab.command()
@site_option
def heal(site: str) -> None:
    """End every partition, slowness and freeze of the site."""
    with Steps().step(f"Healing {site}"):
        Lab(site).heal()


@lab.command("list")
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
def list_(as_json: bool) -> None:
    """Show the sites of this checkout and their servers."""
    rows = [
        {"site": name, "host": server, "address": Site.load(name).addresses[server], "running": running}
        for name in sites()
        for server, running in Lab(name, ()).running().items()
    ]
    if as_json:
        click.echo(json_module.dumps(rows, indent=2))
        return
    if not rows:
        out.print("No lab site. Make one: ./appliance up")
        return
    table = Table("site", "host", "address", "power", box=None, pad_edge=False)
    for row in rows:
        table.add_row(str(row["site"]), str(row["host"]), str(row["address"]), "on" if row["running"] else "off")
    out.print(table)
