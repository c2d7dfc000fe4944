"""A control group of its own for each lab server, in every hierarchy.

Servers that share their launcher's group collide: the systemd of each makes `system.slice/nginx.service` in the
same place and units fail at random. So the launcher moves into a fresh group before it becomes the server.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path

from loyalty.ops.errors import Failure

_NICE_STEP = 0.8
"""What one step of niceness leaves of a process's share: sched(7) has the inverse, 1.25."""


def own_groups(proc_self_cgroup: str, mounts: str, name: str) -> list[Path]:
    """Return the directories of the control groups that a server called ``name`` shall have.

    ``proc_self_cgroup`` is the text of /proc/self/cgroup and ``mounts`` that of /proc/mounts. With version 1
    or the hybrid layout the group is made below the caller's own, one for each hierarchy. With version 2 alone
    it is made at the top: a group that has processes cannot hand controllers to its children, and the caller's
    has at least the caller.
    """
    named: dict[str, Path] = {}
    unified: Path | None = None
    for line in mounts.splitlines():
        _, point, kind, options, *_ = line.split(" ")
        if kind == "cgroup2":
            unified = unified or Path(point)
        elif kind == "cgroup":
            for option in options.split(","):
                named.setdefault(option, Path(point))
    if not named:
        return [unified / name] if unified else []
    groups = []
    for line in proc_self_cgroup.splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            mount = unified
        elif controllers == "cpuset":
            continue  # a new cpuset has no processors and accepts no process
        else:
            mount = named.get(controllers.split(",")[0])
        if mount is not None:
            groups.append(mount / path.strip("/") / name)
    return groups


def make(name: str) -> list[Path]:
    """Make the groups of a server on this machine and return their directories."""
    groups = own_groups(Path("/proc/self/cgroup").read_text(), Path("/proc/mounts").read_text(), name)
    for group in groups:
        group.mkdir(parents=True, exist_ok=True)
        weigh(group, niceness=os.getpriority(os.PRIO_PROCESS, 0))
    return groups


def weigh(group: Path, *, niceness: int) -> None:
    """Let the group as a whole yield to others as a process of this niceness does: within it, `nice` ends."""
    for file, usual in (("cpu.shares", 1024), ("cpu.weight", 100)):
        if (group / file).exists():
            (group / file).write_text(str(round(usual * _NICE_STEP**niceness)))


def freeze(groups: Iterable[Path], *, frozen: bool, patience_s: float = 10.0) -> None:
    """Stop every process in the groups where it stands, or let all go on; returns when that is so.

    In the hybrid layout both versions could; frozen by one, the processes would never arrive at the other.
    """
    groups = list(groups)
    for file, word, answer, wanted in _freezers(frozen):
        for group in (group for group in groups if (group / file).exists()):
            (group / file).write_text(word)
            deadline = time.monotonic() + patience_s
            while wanted not in (group / answer).read_text():
                if time.monotonic() > deadline:
                    raise Failure(f"{group.name} does not {'stop' if frozen else 'go on'}.", "Give the command again.")
                time.sleep(0.01)
            return


def _freezers(frozen: bool) -> tuple[tuple[str, str, str, str], ...]:
    """For versions 1 and 2: the file to write, the word for it, the file that answers, what it says when it is so."""
    state = "FROZEN" if frozen else "THAWED"
    return (
        ("freezer.state", state, "freezer.state", state),
        ("cgroup.freeze", str(int(frozen)), "cgroup.events", f"frozen {int(frozen)}"),
    )


def remove(groups: Iterable[Path], *, patience_s: float = 5.0) -> list[Path]:
    """Remove the groups with all that is below them; return those that still hold a process."""
    deadline = time.monotonic() + patience_s
    left = [group for group in groups if not _removed(group)]
    # The kernel empties a group a moment after its last process is gone.
    while left and time.monotonic() < deadline:
        time.sleep(0.1)
        left = [group for group in left if not _removed(group)]
    return left


def _removed(group: Path) -> bool:
    if not group.is_dir():
        return True
    for child in sorted((path for path in group.rglob("*") if path.is_dir()), reverse=True):
        _rmdir(child)
    return _rmdir(group)


def _rmdir(directory: Path) -> bool:
    try:
        directory.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
