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
"""Until borg, or a mongod, has begun to work."""


def main() -> None:
    wanted = sys.argv[1]

    def progress(step: str, done: int, whole: int) -> None:
        if step == wanted and not whole:
            if step == "check":
                _die()
            threading.Timer(_WITHIN_S, _die).start()

    settings = load_settings(Path(os.environ["LOYALTY_BACKUP_SETTINGS"]))
    restore(settings, ClusterTime.from_hex(sys.argv[3]), Path(sys.argv[2]), progress=progress)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
