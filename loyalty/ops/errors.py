"""The two ways in which an operator's command ends badly; both name the remedy."""

from __future__ import annotations


class Refusal(Exception):
    """The command did not start, or stopped before it changed anything. Exit code 2."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem} {remedy}")
        self.problem = problem
        self.remedy = remedy


class Failure(Exception):
    """A step failed half way. Exit code 1. ``remedy`` is the next command to type."""

    def __init__(self, problem: str, remedy: str = "", details: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.remedy = remedy
        self.details = details
