"""Processor time and memory of process trees, from /proc. On a server: `python3 - NAME=UNIT ... < usage.py`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TypedDict

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Usage(TypedDict):
    """`cpu_seconds` of the whole tree since its start; `worker_bytes` is the largest resident child."""

    cpu_seconds: float
    worker_bytes: int


def usage(root: int) -> Usage:
    """What the process `root` and everything below it have used."""
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    resident: dict[int, int] = {}
    for directory in Path("/proc").iterdir():
        if not directory.name.isdigit():
            continue
        try:
            # The command's name may hold spaces and brackets; the numbers come after its last bracket.
            fields = (directory / "stat").read_text().rpartition(")")[2].split()
            resident[int(directory.name)] = int((directory / "statm").read_text().split()[1]) * _PAGE
        except OSError:
            continue  # it ended meanwhile
        pid = int(directory.name)
        parents[pid] = int(fields[1])
        ticks[pid] = sum(int(field) for field in fields[11:15])  # its own, and of children that have ended
    tree = {root}
    while True:
        grown = tree | {pid for pid, parent in parents.items() if parent in tree}
        if grown == tree:
            break
        tree = grown
    return {
        "cpu_seconds": sum(ticks.get(pid, 0) for pid in tree) / _TICKS,
        "worker_bytes": max((resident.get(pid, 0) for pid in tree - {root}), default=resident.get(root, 0)),
    }


def main() -> None:
    found = {}
    for argument in sys.argv[1:]:
        name, _, unit = argument.partition("=")
        show = ["systemctl", "show", "--property=MainPID", "--value", unit]
        pid = int(subprocess.run(show, capture_output=True, text=True, check=True).stdout)
        if pid:
            found[name] = usage(pid)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
