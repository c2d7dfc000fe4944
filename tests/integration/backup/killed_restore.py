"""A restore that is killed within a step: `python -m … STEP INTO MOMENT`, the settings' file in the environment."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

from loyalty.backup.manifest import ClusterTime
from loyalty.backup.restore import restore
from loyalty.backup.settings import load_settings

_WITHIN_S = 0.7
"""Until a mongod has begun to work."""


def main() -> None:
    wanted, into = sys.argv[1], Path(sys.argv[2])

    def progress(step: str, done: int, whole: int) -> None:
        if step != wanted or whole:
            return
        if step == "check":
            _die()
        elif step == "unpack":
            threading.Thread(target=_die_with_the_first_file, args=(into / "data",), daemon=True).start()
        else:
            threading.Timer(_WITHIN_S, _die).start()

    settings = load_settings(Path(os.environ["LOYALTY_BACKUP_SETTINGS"]))
    restore(settings, ClusterTime.from_hex(sys.argv[3]), into, progress=progress)


def _die_with_the_first_file(folder: Path) -> None:
    while not (folder.is_dir() and any(path.is_file() for path in folder.rglob("*"))):
        pass  # borg is quick: a pause might be longer than what is left
    _die()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
