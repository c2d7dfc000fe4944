"""How a run ends badly: a sentence that says what is wrong, and one that says what to do about it."""

from __future__ import annotations


class BackupError(Exception):
    """What was asked for was not done. Nothing that was complete before has been touched."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem} {remedy}")
        self.problem = problem
        self.remedy = remedy


class Gone(BackupError):
    """The database that is archived is not there to be asked: nothing runs in its place, or an empty one does."""
