"""Terms: all that a program decides by, at one moment. Live, dry run, jobs and back-test go by the same value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from loyalty.infra.mongo import Mongo
from loyalty.programs import service as programs
from loyalty.programs.calendar import Calendar
from loyalty.programs.model import Program
from loyalty.programs.policies import EventPending, Policies
from loyalty.rules import service as rules
from loyalty.rules.engine import CompiledRules
from loyalty.tiers import service as tiers
from loyalty.tiers.engine import Scheme


@dataclass(frozen=True, slots=True)
class Terms:
    """A program, its calendar and policies, and the current versions of its rules and tiers; None before the first."""

    program: Program
    calendar: Calendar
    policies: Policies
    rules: CompiledRules | None = None
    tiers: Scheme | None = None

    @property
    def budgets(self) -> Mapping[str, int]:
        """The points that campaigns may give to all members together, for those that have such a limit."""
        return {} if self.rules is None else self.rules.budgets

    @staticmethod
    def of(program: Program, rules: CompiledRules | None = None, tiers: Scheme | None = None) -> Terms:
        """The terms of a program with these versions."""
        return Terms(program, Calendar.of(program.timezone), program.policies, rules, tiers)

    def awaits(self, event_type: str) -> bool:
        """Whether points of some wallet or rule wait for events of the type."""
        pending = [policy.pending for policy in self.policies.wallets.values()]
        return any(isinstance(one, EventPending) and one.event_type == event_type for one in pending) or (
            self.rules is not None and event_type in self.rules.awaits
        )


def current(db: Mongo, program_id: str) -> Terms:
    """The terms of today, each part at most 5 s old. NotFound when there is no such program."""
    program = programs.get(db, program_id)
    return Terms.of(program, rules.current(db, program), tiers.current(db, program))
