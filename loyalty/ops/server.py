"""One lab server: an overlay on the base tree, booted by systemd-nspawn with a real systemd as its first process."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path
from typing import IO, Any, Final

from loyalty.ops import aptsources, cgroups, mounts, network
from loyalty.ops.errors import Failure
from loyalty.ops.host import codename
from loyalty.ops.process import run
from loyalty.ops.site import CHECKOUT

BOOT_PATIENCE_S = 60
_FUSE = Path("/dev/fuse")
_LINK_PATIENCE_S = 10
_CA_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")

# Joins the control groups first: what is started afterwards belongs to them from its first moment.
_LAUNCH = 'while [ "$1" != -- ]; do echo $$ > "$1/cgroup.procs" || exit 1; shift; done; shift; exec "$@"'
_left_running: Final[list[subprocess.Popen[bytes]]] = []
"""Nobody waits for them, and Python complains of one that is forgotten."""


@dataclass(frozen=True)
class Server:
    """A server's place on this machine. ``machine`` is its name here, ``name`` is what it calls itself."""

    name: str
    tag: str
    address: str
    subnet: IPv4Network
    base: Path
    directory: Path

    @property
    def machine(self) -> str:
        """Return the machine's name, which no other server on this machine has."""
        return f"{self.tag}-{self.name}"

    @property
    def merged(self) -> Path:
        """Return the root of the server's file system as this machine sees it."""
        return self.directory / "merged"

    @property
    def log(self) -> Path:
        """Return the file that takes the server's console."""
        return self.directory / "console.log"

    def nspawn_pid(self) -> int | None:
        """Return the process that holds the server, found by its command line so that no file can be out of date."""
        wanted = f"--directory={self.merged}".encode()
        found = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if wanted in words and Path(os.fsdecode(words[0])).name == "systemd-nspawn":
                    found[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
        # While it starts, it has a child that looks like itself.
        return next((pid for pid, parent in found.items() if parent not in found), None)

    def leader_pid(self) -> int | None:
        """Return the server's first process (its systemd) as this machine numbers it."""
        pid = self.nspawn_pid()
        if pid is None:
            return None
        try:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        return int(children[0]) if children else None

    def prepare(self, authorized_key: str) -> None:
        """Mount the server's file system and, once, write what makes it this server and no other."""
        if not self.nspawn_pid():
            mounts.mount_overlay(
                lower=self.base, upper=self.directory / "upper", work=self.directory / "work", merged=self.merged
            )
        done = self.directory / "prepared"
        if done.exists():
            return
        self._write("etc/hostname", f"{self.name}\n")
        self._write("etc/hosts", f"127.0.0.1 localhost\n127.0.1.1 {self.name}\n::1 localhost ip6-localhost\n")
        self._write("etc/systemd/network/10-host0.network", self._networkd())
        self._write("etc/resolv.conf", resolv_conf())
        self._write("root/.ssh/authorized_keys", authorized_key, mode=0o600)
        (self.merged / "root/.ssh").chmod(0o700)
        self._copy_registries()
        run(["ssh-keygen", "-A", "-f", str(self.merged)])
        run(["systemctl", f"--root={self.merged}", "enable", "systemd-networkd.service"])
        done.touch()

    def host_key(self) -> str:
        """Return the server's public host key, read from its disk."""
        return " ".join((self.merged / "etc/ssh/ssh_host_ed25519_key.pub").read_text().split()[:2])

    def make_cgroups(self) -> list[Path]:
        """Make the server's control groups and return them, for the site to remember."""
        return cgroups.make(f"lab-{self.machine}")

    def boot(self, groups: list[Path]) -> None:
        """Start the server if it is off, and wait until SSH answers."""
        if not self.nspawn_pid():
            command = [
                "systemd-nspawn", "--quiet", "--keep-unit", "--register=no", "--resolv-conf=off", "--timezone=off",
                "--link-journal=no", f"--directory={self.merged}", f"--machine={self.machine}",
                f"--hostname={self.name}", "--boot", "--console=pipe",
                f"--network-bridge={network.bridge_name(self.tag)}",
                "--system-call-filter=@memlock",  # as on any server: mongod keeps its keys out of swap
                *([f"--bind={_FUSE}"] if _FUSE.exists() else []),  # for file systems that are processes: GlusterFS
            ]  # fmt: skip
            with self.log.open("ab") as console:
                _start(
                    ["/bin/sh", "-c", _LAUNCH, "lab", *map(str, groups), "--", *command],
                    output=console,
                    directory=Path("/"),
                )
        self._wait_for_ssh()

    def _wait_for_ssh(self) -> None:
        deadline = time.monotonic() + BOOT_PATIENCE_S
        started = time.monotonic()
        while time.monotonic() < deadline:
            try:
                with socket.create_connection((self.address, 22), timeout=1) as connection:
                    connection.settimeout(5)
                    if connection.recv(4) == b"SSH-":
                        return
            except OSError:
                time.sleep(0.1)
            if time.monotonic() - started > 2 and not self.nspawn_pid():
                break
        raise Failure(
            f"The server {self.name} does not answer on {self.address}:22.",
            f"Read its console: {self.log}",
            _tail(self.log),
        )

    def interface(self) -> str:
        """Return the name of the server's network interface on this machine (nspawn may have shortened it)."""
        found = json.loads(run(["ip", "-json", "link", "show", "dev", f"vb-{self.machine}"]))
        return str(found[0]["ifname"])

    def slow_link_pid(self) -> int | None:
        """Return the process that slows the server's connection down, if one does."""
        try:
            wanted = ["loyalty.ops.slow_link", self.interface()]
        except Failure:
            return None  # the server is off, and its interface with it
        for entry in Path("/proc").iterdir():
            try:
                words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue
            if words[2:4] == wanted:
                return int(entry.name)
        return None

    def slow_down(self, *, delay_ms: float, loss_percent: float) -> None:
        """Let everything that the server sends or gets take longer, in each direction, and some of it be lost."""
        self.speed_up()
        command = [sys.executable, "-m", "loyalty.ops.slow_link", self.interface(), network.bridge_name(self.tag)]
        log = self.directory / "slow_link.log"
        with log.open("w") as output:
            _start([*command, str(delay_ms), str(loss_percent)], output=output, directory=CHECKOUT)
        deadline = time.monotonic() + _LINK_PATIENCE_S
        while not log.read_text():
            if time.monotonic() > deadline:
                raise Failure(f"The connection of {self.name} did not slow down.", f"Read {log}", _tail(log))
            time.sleep(0.02)

    def speed_up(self) -> None:
        """Put the server's interface back on its bridge."""
        pid = self.slow_link_pid()
        if pid is None:
            return
        _signal(pid, signal.SIGKILL)
        run(["ip", "link", "set", self.interface(), "master", network.bridge_name(self.tag)])

    def kill(self, groups: list[Path]) -> None:
        """Cut the power: SIGKILL to the first process. The disk stays as it is."""
        leader = self.leader_pid()
        if leader:
            self.speed_up()
            _signal(leader, signal.SIGKILL)
            cgroups.freeze(groups, frozen=False)  # who is frozen cannot even die
        self._wait_gone(10)

    def mount_disk(self, at: str, *, mib: int) -> None:
        """Put a directory of the running server, with what is in it, on a small disk of its own until a reboot."""
        leader = self.leader_pid()
        if leader is None:
            raise Failure(f"The server {self.name} is off.", "Boot it first.")
        image = self.directory / f"disk{at.replace('/', '-')}.img"
        image.unlink(missing_ok=True)
        with image.open("wb") as file:
            file.truncate(mib << 20)
        run(["mkfs.ext4", "-q", "-m", "0", str(image)])
        device = run(["losetup", "--find", "--show", str(image)]).strip()
        number = os.stat(device).st_rdev
        script = (
            'set -e; mknod "/dev/$1" b "$2" "$3"; trap \'rm "/dev/$1"\' EXIT; mount "/dev/$1" /mnt; cp -a "$4/." /mnt; '
            'umount /mnt; mount "/dev/$1" "$4"; rmdir "$4/lost+found"'
        )
        words = [Path(device).name, str(os.major(number)), str(os.minor(number)), at]
        try:
            run(["nsenter", f"--target={leader}", "--mount", "sh", "-c", script, "sh", *words])
        finally:
            run(["losetup", "--detach", device])  # happens when it is unmounted, and that when the server ends

    def remove(self, groups: list[Path]) -> None:
        """Cut the power (the disk goes too, so nothing is worth saving), unmount, delete: nothing is left."""
        self.kill(groups)
        mounts.remove_tree(self.directory)
        # systemd-nspawn leaves these behind when it is killed.
        shutil.rmtree(f"/run/systemd/nspawn/propagate/{self.machine}", ignore_errors=True)
        if left := cgroups.remove(groups):
            raise Failure(f"The control group {left[0]} still has processes.", "Run `down` again in a moment.")

    def _gone_within(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while self.nspawn_pid():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def _wait_gone(self, seconds: float) -> None:
        if self._gone_within(seconds):
            return
        if pid := self.nspawn_pid():
            _signal(pid, signal.SIGKILL)
        if not self._gone_within(5):
            raise Failure(f"The server {self.name} does not end (process {self.nspawn_pid()}).")

    def _write(self, path: str, text: str, *, mode: int = 0o644) -> None:
        file = self.merged / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)  # it may be a link that leads out of the server
        file.write_text(text)
        file.chmod(mode)

    def _networkd(self) -> str:
        return (
            "[Match]\nName=host0\n\n"
            f"[Network]\nAddress={self.address}/{self.subnet.prefixlen}\nGateway={self.subnet[1]}\n"
            "LinkLocalAddressing=no\nIPv6AcceptRA=no\n"
        )

    def _copy_registries(self) -> None:
        """Let the server install from where this machine installs: apt sources and keys, pip's settings, CA bundle."""
        sources = aptsources.sources_of(codename())
        self._write("etc/apt/sources.list.d/control-machine.sources", "\n".join(s.stanza() for s in sources))
        for key in {source.signed_by for source in sources if source.signed_by}:
            target = self.merged / key.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(key, target)
        self._write("etc/apt/apt.conf.d/90control-machine", acquire_settings(run(["apt-config", "dump"])))
        if _CA_BUNDLE.exists():
            self._write(str(_CA_BUNDLE).lstrip("/"), _CA_BUNDLE.read_text())
        if settings := pip_settings(run(["python3", "-m", "pip", "config", "list"])):
            self._write("etc/pip.conf", settings)


def resolv_conf() -> str:
    """Return the name servers of this machine in a form that also works from inside a server."""
    text = Path("/etc/resolv.conf").read_text()
    upstream = Path("/run/systemd/resolve/resolv.conf")
    if re.search(r"^nameserver\s+127\.", text, re.MULTILINE) and upstream.exists():
        return upstream.read_text()  # a stub on the loopback cannot be reached from a server
    return text


def acquire_settings(dump: str) -> str:
    """Return from `apt-config dump` how this machine fetches: proxies and what it accepts of an archive."""
    wanted = re.compile(r"^Acquire::(http|https|Check-Valid-Until|Check-Date|Retries)\b.*[^;]*;$")
    return "".join(f"{line}\n" for line in dump.splitlines() if wanted.match(line) and not line.endswith('"";'))


def pip_settings(listing: str) -> str:
    """Return from `pip config list` a pip.conf for a server; places on this machine's own disk stay out."""
    settings: dict[str, str] = {}
    for line in listing.splitlines():
        name, _, quoted = line.partition("=")
        section, _, key = name.rpartition(".")
        if section not in ("global", "install", ":env:") or not quoted:
            continue
        words = [word for word in str(ast.literal_eval(quoted)).split() if not word.startswith(("file:", "/"))]
        if key == "cert":
            words = [str(_CA_BUNDLE)]
        if words and key in _PIP_KEYS:
            settings[key] = " ".join(words)
    return "[global]\n" + "".join(f"{key} = {value}\n" for key, value in sorted(settings.items())) if settings else ""


_PIP_KEYS = {"index-url", "extra-index-url", "trusted-host", "proxy", "cert", "timeout", "default-timeout", "retries"}


def _start(command: list[str], *, output: IO[Any], directory: Path) -> None:
    """Start what goes on when this program has ended."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,  # Ctrl-C in the operator's terminal is not for the servers
        cwd=directory,
    )
    _left_running[:] = [one for one in _left_running if one.poll() is None]
    _left_running.append(process)


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _tail(file: Path) -> str:
    return "\n".join(file.read_text(errors="replace").splitlines()[-15:]) if file.exists() else ""
