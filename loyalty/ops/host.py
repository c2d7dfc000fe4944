"""What the lab needs of this machine: asked before anything is made, all at once, each problem with its remedy."""

from __future__ import annotations

import os
import shutil
import ssl
import sys
from dataclasses import dataclass
from pathlib import Path

from loyalty.ops import aptsources, cgroups, mounts
from loyalty.ops.errors import Failure, Refusal
from loyalty.ops.process import run

DISK_NEEDED_GIB = 6

_TOOLS = {
    "debootstrap": "debootstrap",
    "systemd-nspawn": "systemd-container",
    "nft": "nftables",
    "ip": "iproute2",
    "rsync": "rsync",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "modprobe": "kmod",
    "umount": "mount",
}
"""Commands that the lab calls, and the package that brings each."""

_LOCKED_S = 600
"""How long another apt is waited for: a machine that was just switched on often upgrades itself."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: ``remedy`` is empty when all is well."""

    subject: str
    found: str
    remedy: str = ""

    @property
    def ok(self) -> bool:
        """Say whether the machine passes."""
        return not self.remedy


def os_release(file: Path = Path("/etc/os-release")) -> dict[str, str]:
    """Return the fields of os-release."""
    lines = file.read_text().splitlines() if file.exists() else []
    pairs = (line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    return {key: value.strip().strip('"') for key, value in pairs}


def codename() -> str:
    """Return the code name of this machine's release, for example ``bookworm``."""
    return os_release().get("VERSION_CODENAME", "")


def check_basics() -> list[Finding]:
    """Check what no package can mend: who runs this, and on which system."""
    uid = os.geteuid()
    release = os_release()
    family = {release.get("ID", ""), *release.get("ID_LIKE", "").split()}
    name = release.get("PRETTY_NAME", "an unknown system")
    known = bool(family & {"debian", "ubuntu"}) and bool(codename())
    return [
        Finding(
            "user",
            "root" if uid == 0 else f"user id {uid}",
            ""
            if uid == 0
            else "The lab makes servers, bridges and mounts: run it with sudo. (`./appliance dev` needs no root.)",
        ),
        Finding("system", name, "" if known else "Use Debian 12 or Ubuntu 22.04 (a virtual machine will do)."),
    ]


def check_lab(directory: Path, *, fresh: bool) -> list[Finding]:
    """Check disk, kernel and registries. ``fresh``: servers are still to be built, so the registries must answer."""
    findings = [_disk(directory, DISK_NEEDED_GIB if fresh else 1), _overlay(directory), _bridge(), _nft(), _cgroups()]
    if fresh:
        findings += [_apt_registry(), _python_registry()]
    return findings


def use_all_processors() -> None:
    """Let this process, and what it starts, run on every processor that this machine has.

    Whoever started it may have been held to some of them, as Mitogen holds the tasks of a playbook, and all that a
    process starts inherits that: the servers of a lab would share one processor for as long as they live.
    """
    os.sched_setaffinity(0, os.sched_getaffinity(1))


def missing_packages() -> list[str]:
    """Return the packages that the lab needs and this machine lacks."""
    # Debian keeps administration tools out of an ordinary user's PATH.
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    return sorted({package for tool, package in _TOOLS.items() if shutil.which(tool, path=path) is None})


def install_packages(packages: list[str]) -> None:
    """Install packages on this machine with apt; refreshes its lists only when the first try fails."""
    install = ["apt-get", f"--option=DPkg::Lock::Timeout={_LOCKED_S}", "install", "--yes", "--no-install-recommends"]
    install += packages
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    try:
        run(install, env=quiet)
    except Failure:
        try:
            run(["apt-get", "update"], env=quiet)
            run(install, env=quiet)
        except Failure as failure:
            raise Refusal(
                f"This machine lacks {', '.join(packages)} and apt could not install them: {failure.details}",
                f"Make `apt-get install {' '.join(packages)}` work, then run again.",
            ) from None


def refuse_problems(findings: list[Finding]) -> None:
    """Raise a Refusal that lists every finding that is not well."""
    if problems := [finding for finding in findings if not finding.ok]:
        raise Refusal(
            "\n".join(f"{problem.subject}: {problem.found}" for problem in problems),
            "\n".join(f"{problem.subject}: {problem.remedy}" for problem in problems),
        )


def _disk(directory: Path, needed_gib: int) -> Finding:
    there = directory
    while not there.exists():
        there = there.parent
    free_gib = shutil.disk_usage(there).free / 2**30
    remedy = "" if free_gib >= needed_gib else f"Free {needed_gib - free_gib:.1f} GiB more on the disk of {there}."
    return Finding("disk", f"{free_gib:.1f} GiB free, {needed_gib} GiB needed", remedy)


def _load_module(name: str) -> None:
    """Ask the kernel for a module; it may be built in or refused, the check that follows tells."""
    try:
        run(["modprobe", "--quiet", name])
    except Failure:
        return


def _overlay(directory: Path) -> Finding:
    """Mount a small overlay where the servers will be: some file systems cannot carry an upper layer."""
    probe = directory / ".probe"
    try:
        _load_module("overlay")
        mounts.remove_tree(probe)
        (probe / "lower").mkdir(parents=True)
        mounts.mount_overlay(lower=probe / "lower", upper=probe / "upper", work=probe / "work", merged=probe / "merged")
        (probe / "merged/file").write_text("x")
        return Finding("overlayfs", "works")
    except (Failure, OSError) as error:
        return Finding(
            "overlayfs",
            f"cannot be mounted under {directory} ({error})",
            "Use a kernel with overlayfs and a checkout on ext4 or xfs (not inside another overlay).",
        )
    finally:
        mounts.remove_tree(probe)


def _bridge() -> Finding:
    name = f"lo-{os.getpid()}"
    try:
        run(["ip", "link", "add", "name", name, "type", "bridge"])
        run(["ip", "link", "delete", name])
        return Finding("bridge", "works")
    except Failure as failure:
        return Finding(
            "bridge",
            f"cannot be made ({failure.details})",
            "Load the kernel's bridge module (modprobe bridge), or use a machine that may.",
        )


def _nft() -> Finding:
    table = f"loyalty_probe_{os.getpid()}"
    # Dormant: what it asks of the kernel is there, and no packet passes it. Awake it cut connections of this machine.
    rules = f"""
table ip {table} {{
  flags dormant
  chain postrouting {{
    type nat hook postrouting priority srcnat
    masquerade
  }}
}}
"""
    try:
        run(["nft", "--file", "-"], input_text=rules)
        run(["nft", "delete", "table", "ip", table])
        return Finding("nftables", "works, with masquerade")
    except Failure as failure:
        return Finding(
            "nftables",
            f"refused ({failure.details})",
            "Load the kernel's nf_tables and nft_masq modules, or use a machine that may.",
        )


def _cgroups() -> Finding:
    name = f"lab-probe-{os.getpid()}"
    try:
        groups = cgroups.make(name)
        cgroups.remove(groups)
        if groups:
            return Finding("control groups", f"{len(groups)} hierarchies")
        problem = "none is mounted"
    except OSError as error:
        problem = str(error)
    return Finding("control groups", problem, "Mount /sys/fs/cgroup writable (a container needs --privileged).")


def _apt_registry() -> Finding:
    try:
        source = aptsources.mirror(codename(), aptsources.sources_of(codename()))
    except Refusal as refusal:
        return Finding("system packages", refusal.problem, refusal.remedy)
    url = f"{source.uri.rstrip('/')}/dists/{codename()}/InRelease"
    return _answers("system packages", url, "Make `apt-get update` work on this machine (network, proxy, sources).")


def _python_registry() -> Finding:
    from pip._internal.models.index import PyPI

    try:
        url = run([_pip(), "config", "get", "global.index-url"]).strip()
    except Failure:
        url = PyPI.simple_url
    return _answers("Python packages", f"{url.rstrip('/')}/pip/", "Make `pip download pip` work (network, pip.conf).")


def _pip() -> str:
    return str(Path(sys.executable).with_name("pip"))


def _answers(subject: str, url: str, remedy: str) -> Finding:
    import httpx

    try:
        httpx.get(url, timeout=15, follow_redirects=True, verify=ssl.create_default_context()).raise_for_status()
        return Finding(subject, "registry answers")
    except httpx.HTTPError as error:
        return Finding(subject, f"the registry does not answer ({error})", remedy)
