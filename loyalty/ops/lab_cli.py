"""`./appliance lab ...`: servers by name, for tests and for trying a role."""

from __future__ import annotations

import json as json_module

import click
from rich.table import Table

from loyalty.ops.console import Steps, out
from loyalty.ops.lab import Lab
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
    default="",
    show_default="the one that the site has; one-box at first",
    help="Example inventory that the site follows: its hosts are built.",
)
_host_option = click.option("--host", "hosts", multiple=True, help="Only this server of the topology; repeat for more.")


@click.group()
def lab() -> None:
    """Servers of a lab site: real systemd machines on this computer, reached by SSH.

    \b
    ./appliance lab up --site trial --topology three-server
    ./appliance ssh --site trial box1 -- systemctl --failed
    ansible -i inventory/one-box -i .lab/sites/trial/inventory all -m ping
    ./appliance lab kill --site trial --host box1      # power cut
    ./appliance lab boot --site trial --host box1      # and its recovery
    ./appliance lab down --site trial
    """


@lab.command()
@site_option
@topology_option
@_host_option
def up(site: str, topology: str, hosts: tuple[str, ...]) -> None:
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
@click.option("--host", required=True, help="Inventory name of the server.")
def kill(site: str, host: str) -> None:
    """Cut the power of a server: SIGKILL to everything in it. Its disk stays."""
    with Steps().step(f"Cutting the power of {host}"):
        Lab(site, (host,)).kill(host)


@lab.command()
@site_option
@click.option("--host", required=True, help="Inventory name of the server.")
def boot(site: str, host: str) -> None:
    """Switch a server on and wait until SSH answers."""
    with Steps().step(f"Booting {host}") as step:
        Lab(site, (host,), step.say).boot(host)


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
