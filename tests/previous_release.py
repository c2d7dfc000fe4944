"""The release before this one: what its database looks like, and its code, out of the history of this checkout.

`previous_release.json` names its commit and keeps its collections, indexes and validators, so that a shallow clone can
compare too. After a release, record the one that has just become the release before:

    python -m tests.previous_release record COMMIT
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.servers import Application

REPOSITORY = Path(__file__).resolve().parent.parent
RECORD = Path(__file__).with_suffix(".json")

# Runs with the code of the release that is recorded.
_DESCRIBE = """
import json
from loyalty import ledger
from loyalty.migrations import declared
collections = {
    name: {
        index.document["name"]: {
            "keys": list(index.document["key"].items()),
            "options": {k: v for k, v in index.document.items() if k not in ("name", "key")},
        }
        for index in indexes
    }
    for name, indexes in declared().items()
}
print(json.dumps({"collections": collections, "validators": ledger.VALIDATORS}))
"""


def recorded() -> dict[str, Any]:
    """`commit`, `collections` ({name: {index: {keys, options}}}) and `validators` of the release before."""
    found: dict[str, Any] = json.loads(RECORD.read_text(encoding="utf-8"))
    return found


def describe(source: Path) -> dict[str, Any]:
    """The same of the application in `source`."""
    done = subprocess.run(
        [sys.executable, "-c", _DESCRIBE], env={"PYTHONPATH": str(source)}, capture_output=True, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def history_holds(commit: str) -> bool:
    """Whether this checkout has the commit; a shallow clone may not."""
    return (
        subprocess.run(["git", "cat-file", "-e", f"{commit}^{{commit}}"], cwd=REPOSITORY, check=False).returncode == 0
    )


def export(commit: str, destination: Path) -> Path:
    """The application as it was in `commit`, in `destination`."""
    packed = subprocess.run(
        ["git", "archive", "--format=tar", commit, "loyalty"], cwd=REPOSITORY, capture_output=True, check=True
    )
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as tar:
        tar.extractall(destination)
    return destination


class PreviousApplication(Application):
    """The release before, under gunicorn, with the packages of this one."""

    def __init__(self, source: Path, directory: Path, **options: Any) -> None:
        super().__init__(directory, **options)
        self.source = source

    def command(self) -> list[str]:
        ours, theirs = (str(root / "loyalty" / "gunicorn.conf.py") for root in (REPOSITORY, self.source))
        return [theirs if word == ours else word for word in super().command()]

    def environment(self) -> Mapping[str, str]:
        return {**super().environment(), "PYTHONPATH": str(self.source)}


def main(arguments: list[str]) -> None:
    """Record the release `COMMIT`."""
    import tempfile

    if len(arguments) != 2 or arguments[0] != "record":
        sys.exit(__doc__)
    commit = subprocess.run(
        ["git", "rev-parse", "--verify", f"{arguments[1]}^{{commit}}"], cwd=REPOSITORY, capture_output=True, text=True,
        check=True,
    ).stdout.strip()  # by hand: a line holds what belongs together  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        found = describe(export(commit, Path(folder)))
    RECORD.write_text(json.dumps({"commit": commit, **found}, indent=2, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
