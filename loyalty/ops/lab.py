"""Lab sites: real systemd servers on this machine, made and removed by name.

>>> lab = Lab(site="lab", topology="one-box")
>>> lab.up()                                    # doctest: +SKIP
>>> lab.ssh("box1", ["uname", "-n"]).stdout     # doctest: +SKIP
'box1\n'
>>> lab.down()                                  # doctest: +SKIP
"""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal

from loyalty.ops import cgroups, host, mounts, network, rootfs
from loyalty.ops.errors import Failure, Refusal
from loyalty.ops.locks import locked
from loyalty.ops.server import Server
from loyalty.ops.site import LAB_DIRECTORY, Site, check_name, sites, topology_hosts

Say = Callable[[str], None]
"""Takes one line about what happens now."""

Direction = Literal["both", "in", "out"]


class Lab:
    """The servers of one site. Every method may be called again after a crash or Ctrl-C at any line."""

    def __init__(
        self,
        site: str = "lab",
        hosts: Sequence[str] = (),
        say: Say = lambda line: None,
        live: Say = lambda line: None,
        *,
        topology: str | None = None,
    ) -> None:
        """Name the site and what `up` shall make.

        ``topology`` is the example inventory that the site follows from now on (default: the one that it follows), and
        ``hosts`` are names in it (default: all). ``say`` is told what happens, ``live`` what goes on at the moment.
        """
        if topology:
            topology_hosts(topology)
        check_name("site", site)
        for name in hosts:
            check_name("host", name)
        self.site = site
        self.hosts = list(hosts)
        self.topology = topology
        self._say = say
        self._live = live

    def up(self) -> None:
        """Make the servers that are missing and boot those that are off; the rest is left alone."""
        host.refuse_problems(host.check_basics())
        host.use_all_processors()
        if missing := host.missing_packages():
            self._say(f"installing on this machine: {' '.join(missing)}")
            host.install_packages(missing)
        with self._site_lock():
            site = Site.load(self.site)
            site.topology = self.topology or site.topology
            hosts = self.hosts or topology_hosts(site.topology)
            fresh = any(name not in site.addresses for name in hosts)
            site.make_directory()
            host.refuse_problems(host.check_lab(LAB_DIRECTORY, fresh=fresh))
            self._base(site)
            site.make_key()
            self._network(site)
            for name in hosts:
                site.allot_address(name)
            site.save()
            servers = [self._server(site, name) for name in hosts]
            for server in servers:
                site.cgroups[server.name] = sorted(
                    {*site.cgroups.get(server.name, []), *map(str, server.make_cgroups())}
                )
            site.save()
            off = [server for server in servers if not server.nspawn_pid()]
            if off:
                self._say(f"booting {', '.join(server.name for server in off)}")
            with ThreadPoolExecutor(max_workers=max(1, len(servers))) as pool:
                list(pool.map(lambda server: self._start(site, server), servers))
            self._write_known_hosts(site)
            site.write_inventory()

    def down(self) -> None:
        """Remove the site: servers, network, keys, secrets, files. The base tree stays for the other sites."""
        host.refuse_problems(host.check_basics())
        with self._site_lock():
            site = Site.load(self.site)
            if site.subnet is not None:
                servers = [self._server(site, name) for name in site.addresses]
                if servers:
                    self._say(f"removing {', '.join(server.name for server in servers)}")
                with ThreadPoolExecutor(max_workers=max(1, len(servers))) as pool:
                    list(pool.map(lambda server: server.remove(_groups(site, server.name)), servers))
            with locked(network.RUN_DIRECTORY / "network.lock"):
                network.remove(site.tag)
            mounts.remove_tree(site.directory)
        for directory in (LAB_DIRECTORY / "sites", LAB_DIRECTORY, network.RUN_DIRECTORY):
            if directory.is_dir() and not any(directory.iterdir()):
                directory.rmdir()

    def boot(self, name: str) -> None:
        """Switch a server on (after `kill`, this is its crash recovery) and wait until SSH answers."""
        host.use_all_processors()
        with self._site_lock():
            site = self._existing()
            self._network(site)
            server = self._server(site, self._known(site, name))
            site.cgroups[name] = sorted({*site.cgroups.get(name, []), *map(str, server.make_cgroups())})
            site.save()
            self._start(site, server)

    def kill(self, name: str) -> None:
        """Cut a server's power: nothing in it gets a chance to tidy up. Its disk stays."""
        site = self._existing()
        self._server(site, self._known(site, name)).kill(_groups(site, name))

    def wipe(self, name: str) -> None:
        """Put a new server in the place of one: same name and address, nothing on its disk, other host keys."""
        with self._site_lock():
            site = self._existing()
            self._server(site, self._known(site, name)).remove(_groups(site, name))
            site.cgroups.pop(name, None)
            site.save()
        self.boot(name)
        self._write_known_hosts(site)

    def freeze(self, name: str) -> None:
        """Stop everything in a server where it stands, as a machine that hangs: connections stay open and silent."""
        self._freeze(name, frozen=True)

    def thaw(self, name: str) -> None:
        """Let a frozen server go on."""
        self._freeze(name, frozen=False)

    def partition(
        self, name: str, others: Sequence[str] = (), *, direction: Direction = "both", percent: int = 100
    ) -> None:
        """Cut a server off from others of the site (default: all): both ways, or what it sends (`out`) or gets (`in`).

        With ``percent`` only so many of the frames are lost. The operator's own way in stays.
        """
        site = self._existing()
        own = site.addresses[self._known(site, name)]
        far = [site.addresses[self._known(site, other)] for other in others or site.addresses if other != name]
        network.cut(
            site.tag,
            [network.Cut(own, address, percent) for address in far if direction in ("both", "out")]
            + [network.Cut(address, own, percent) for address in far if direction in ("both", "in")],
        )

    def slow(self, name: str, *, milliseconds: float, loss_percent: float = 0) -> None:
        """Add so many milliseconds to each round trip of a server, and lose some of its frames."""
        site = self._existing()
        self._server(site, self._known(site, name)).slow_down(delay_ms=milliseconds / 2, loss_percent=loss_percent)

    def heal(self) -> None:
        """End every `partition`, `slow` and `freeze` of the site."""
        site = self._existing()
        network.mend(site.tag)
        for name in site.addresses:
            self._server(site, name).speed_up()
            self._freeze(name, frozen=False)

    def disk(self, name: str, at: str, *, mib: int) -> None:
        """Give a directory of a running server a small disk of its own, to be filled. It is gone with a reboot."""
        site = self._existing()
        self._server(site, self._known(site, name)).mount_disk(at, mib=mib)

    def address(self, name: str) -> str:
        """Return the server's IPv4 address."""
        site = self._existing()
        return site.addresses[self._known(site, name)]

    def running(self) -> dict[str, bool]:
        """Return for every server of the site whether it is switched on."""
        site = Site.load(self.site)
        return {name: self._server(site, name).nspawn_pid() is not None for name in site.addresses}

    def ssh_command(self, name: str, command: Sequence[str] = (), *, terminal: bool = False) -> list[str]:
        """Return the ssh line that runs ``command`` as root on the server.

        One word is handed to the server's shell as it is (``"ls | wc -l"``); several are words of one command.
        """
        site = self._existing()
        remote = list(command) if len(command) == 1 else [shlex.join(command)] if command else []
        options = ["-t"] if terminal else ["-T"]
        address = site.addresses[self._known(site, name)]
        return ["ssh", *options, "-i", str(site.key), *site.ssh_options(), f"root@{address}", *remote]

    def ssh(
        self, name: str, command: Sequence[str], *, input_text: str | None = None, timeout_s: float | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run ``command`` as root on the server and return its output and exit code (255: no connection)."""
        return subprocess.run(
            self.ssh_command(name, command),
            input=input_text,
            stdin=subprocess.DEVNULL if input_text is None else None,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )

    def _freeze(self, name: str, *, frozen: bool) -> None:
        site = self._existing()
        cgroups.freeze(_groups(site, self._known(site, name)), frozen=frozen)

    def _site_lock(self) -> AbstractContextManager[None]:
        tag = Site(self.site).tag
        return locked(network.RUN_DIRECTORY / f"{tag}.lock", waiting=lambda: self._say("waiting for another command"))

    def _existing(self) -> Site:
        site = Site.load(self.site)
        if site.subnet is None:
            raise Refusal(f"There is no lab site {self.site}.", f"Make it: ./appliance lab up --site {self.site}")
        return site

    def _known(self, site: Site, name: str) -> str:
        if name not in site.addresses:
            there = ", ".join(site.addresses) or "none"
            raise Refusal(f"The site {site.name} has no server {name} (it has {there}).", "Name one of these.")
        return name

    def _server(self, site: Site, name: str) -> Server:
        if site.subnet is None:
            raise Refusal(f"The site {site.name} has no network yet.", f"./appliance lab up --site {site.name}")
        return Server(
            name=name,
            tag=site.tag,
            address=site.addresses[name],
            subnet=site.subnet,
            base=LAB_DIRECTORY / "base" / site.base,
            directory=site.server_directory(name),
        )

    def _base(self, site: Site) -> None:
        """Give the site a base tree. Servers that exist keep theirs: an overlay must not change its ground."""
        if site.base and (LAB_DIRECTORY / "base" / site.base).is_dir():
            return
        if site.base and site.addresses:
            raise Failure(f"The base tree of the site {site.name} is gone.", f"./appliance down --site {site.name}")
        identity = rootfs.base_identity()
        directory = LAB_DIRECTORY / "base" / identity
        log = site.directory / "debootstrap.log"
        with _base_lock(lambda: self._say("waiting for the base system of another site")):
            if not directory.is_dir():
                self._say("building the base system (once; a minute or two)")
                rootfs.build(directory, cache=cache_directory() / "debootstrap", log=log, each=self._live)
            site.base = identity
            site.save()

    def _network(self, site: Site) -> None:
        with locked(network.RUN_DIRECTORY / "network.lock"):
            if site.subnet is None:
                site.subnet = network.free_subnet(site.tag)
                site.save()
            network.create(site.tag, site.subnet)

    def _start(self, site: Site, server: Server) -> None:
        server.prepare(site.key.with_name("id_ed25519.pub").read_text())
        server.boot(_groups(site, server.name))

    def _write_known_hosts(self, site: Site) -> None:
        lines = [f"{site.addresses[name]} {self._server(site, name).host_key()}\n" for name in site.addresses]
        site.known_hosts.write_text("".join(lines))


def purge_base() -> None:
    """Remove the base trees that no site of this checkout uses."""
    if not LAB_DIRECTORY.exists():
        return
    with _base_lock(lambda: None):
        used = {Site.load(name).base for name in sites()}
        for tree in (LAB_DIRECTORY / "base").glob("*"):
            if tree.name not in used:
                mounts.remove_tree(tree)
    for directory in (LAB_DIRECTORY / "base", LAB_DIRECTORY):
        if directory.is_dir() and not any(directory.iterdir()):
            directory.rmdir()


def _base_lock(waiting: Callable[[], None]) -> AbstractContextManager[None]:
    return locked(LAB_DIRECTORY / "base.lock", waiting=waiting)


def cache_directory() -> Path:
    """Return where downloads are kept for the next time."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "loyalty"


def _groups(site: Site, name: str) -> list[Path]:
    return [Path(group) for group in site.cgroups.get(name, [])]
