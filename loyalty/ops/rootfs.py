"""The base tree: a minimal system of this machine's own release, the read-only layer under every lab server.

It holds only what a freshly installed server has (an init system, SSH, Python); roles install the rest themselves.
"""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Callable
from pathlib import Path

from loyalty.ops import aptsources, mounts
from loyalty.ops.errors import Failure
from loyalty.ops.host import codename
from loyalty.ops.process import follow

PACKAGES = (
    "systemd,systemd-sysv,dbus,openssh-server,python3,python3-apt,sudo,iproute2,ca-certificates,"
    "nftables,rsync,cron,gnupg"
)
_RECIPE = 2
"""Part of the tree's identity: raise it when `_finish` changes, and the next `up` builds a new tree."""


def base_identity() -> str:
    """Return the name of the tree that this machine's sources and this recipe give."""
    release = codename()
    sources = aptsources.sources_of(release)
    recipe = [str(_RECIPE), release, platform.machine(), PACKAGES, aptsources.mirror(release, sources).uri]
    return hashlib.sha256("\n".join(recipe).encode()).hexdigest()[:12]


def build(directory: Path, *, cache: Path, log: Path, each: Callable[[str], None]) -> None:
    """Build the tree at ``directory``, or fail with the last words of debootstrap; ``each`` gets its lines.

    It grows in a neighbour called ``.partial`` and gets its name when it is whole: an interrupted build is
    never used, only thrown away. Downloaded packages stay in ``cache``, so a second build is quick.
    """
    partial = directory.with_name(directory.name + ".partial")
    mounts.remove_tree(partial)
    partial.mkdir(parents=True)
    cache.mkdir(parents=True, exist_ok=True)
    release = codename()
    source = aptsources.mirror(release, aptsources.sources_of(release))
    command = [*_BOUND, "debootstrap", "--variant=minbase", f"--include={PACKAGES}", f"--cache-dir={cache}"]
    if source.signed_by:
        command.append(f"--keyring={source.signed_by}")
    command += [release, str(partial), source.uri]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    with log.open("w") as stream:
        code = follow(command, cwd=Path("/"), env=environment, log=stream, each=each, grace_s=0)
    if code != 0:
        raise Failure(
            "debootstrap could not build the base system.",
            f"Make `apt-get update` work on this machine, then run again. All output: less {log}",
            "\n".join(log.read_text(errors="replace").splitlines()[-10:]),
        )
    _finish(partial)
    partial.rename(directory)


# In namespaces of its own, which end with us however we end: no orphan goes on writing, no mount is left.
_BOUND = ("setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")


def _finish(tree: Path) -> None:
    """Take out what must differ from server to server, and let packages be installed without waiting for the disk."""
    (tree / "etc/dpkg/dpkg.cfg.d/unsafe-io").write_text("force-unsafe-io\n")
    (tree / "etc/machine-id").write_text("")
    for key in (tree / "etc/ssh").glob("ssh_host_*"):
        key.unlink()
    (tree / "etc/apt/sources.list").write_text("")
    for archive in (tree / "var/cache/apt/archives").glob("*.deb"):
        archive.unlink()
