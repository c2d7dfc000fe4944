"""Awards: pure functions from facts and a version of the rules to points. Live, dry run and explanation share them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from loyalty.infra.money import MoneyError, exponent, to_minor
from loyalty.rules.model import PointsPerSpend, Rounding, RuleSet


@dataclass(frozen=True, slots=True)
class Line:
    """What one rule gave. `basis` is the amount it looked at, in minor units; `reason` says why it gave nothing."""

    rule: str
    wallet: str
    points: int
    basis: int
    reason: str | None = None

    def document(self) -> dict[str, Any]:
        """The form in the evidence of an entry."""
        document = {"rule": self.rule, "wallet": self.wallet, "points": self.points, "basis": self.basis}
        if self.reason is not None:
            document["reason"] = self.reason
        return document


@dataclass(frozen=True, slots=True)
class CompiledRule:
    """A rule with its amounts in minor units of the program's currency."""

    rule: PointsPerSpend
    per: int
    minimum: int

    def award(self, amount: int) -> Line:
        """The line for a purchase of `amount` minor units."""
        if amount < self.minimum:
            return Line(self.rule.id, self.rule.wallet, 0, amount, "below_minimum")
        return Line(
            self.rule.id,
            self.rule.wallet,
            rounded_quotient(amount * self.rule.points, self.per, self.rule.rounding),
            amount,
        )


@dataclass(frozen=True, slots=True)
class CompiledRules:
    """A published version, ready to award."""

    version: int
    rules: tuple[CompiledRule, ...]

    def award(self, amount: int) -> tuple[Line, ...]:
        """One line a rule for a purchase of `amount` minor units of the program's currency."""
        return tuple([rule.award(amount) for rule in self.rules])


def compile_rules(rule_set: RuleSet, version: int, currency: str) -> CompiledRules:
    """The version in the program's currency; it must have passed `defects`."""
    return CompiledRules(
        version,
        tuple(
            CompiledRule(rule, to_minor(rule.per, currency), to_minor(rule.minimum, currency))
            for rule in rule_set.rules
        ),
    )


def defects(rule_set: RuleSet, currency: str) -> list[dict[str, str]]:
    """Everything that is wrong with the rules for a program in `currency`, as `{pointer, code, detail}`."""
    found = []
    seen: set[str] = set()
    for index, rule in enumerate(rule_set.rules):
        if rule.id in seen:
            detail = f"Another rule is called {rule.id}."
            found.append({"pointer": f"/rules/{index}/id", "code": "duplicate", "detail": detail})
        seen.add(rule.id)
        for name in ("per", "minimum"):
            try:
                value = to_minor(getattr(rule, name), currency)
            except MoneyError as error:
                found.append({"pointer": f"/rules/{index}/{name}", "code": "invalid_value", "detail": f"{error}."})
                continue
            if name == "per" and value == 0:
                smallest = f"1 minor unit ({exponent(currency)} decimals)"
                detail = f"Points per nothing: give at least {smallest}."
                found.append({"pointer": f"/rules/{index}/per", "code": "invalid_value", "detail": detail})
    return found


def rounded_quotient(dividend: int, divisor: int, rounding: Rounding) -> int:
    """dividend / divisor as a whole number, exactly; both are non-negative."""
    whole, rest = divmod(dividend, divisor)
    if rounding == "ceil":
        return whole + (rest > 0)
    if rounding == "half_up":
        return whole + (2 * rest >= divisor)
    return whole
