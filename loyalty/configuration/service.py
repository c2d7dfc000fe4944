"""What can be done with a configuration: take it from a program, compare it, apply it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from loyalty.configuration.differences import ABSENT, Difference, differences
from loyalty.configuration.model import Configuration, RewardSettings, Settings
from loyalty.configuration.text import read, write
from loyalty.infra.clock import Clock
from loyalty.infra.http import body as bodies
from loyalty.infra.http.problems import PreconditionFailed
from loyalty.infra.mongo import Mongo
from loyalty.infra.problems import ValidationFailed
from loyalty.programs import service as programs
from loyalty.programs.model import Program
from loyalty.rewards import service as rewards
from loyalty.rewards.model import Reward
from loyalty.rules import checks, diff
from loyalty.rules import service as rules
from loyalty.tiers import service as tiers

Json = dict[str, Any]

_REWARD_PAGE = 500


@dataclass(frozen=True, slots=True)
class Present:
    """The configuration of a program as it is, and the versions that it was read at."""

    program: Program
    configuration: Configuration
    rules_version: int
    tiers_version: int
    rewards: dict[str, Reward]

    @property
    def tag(self) -> str:
        """Changes with whatever a configuration can change."""
        offered = ".".join(str(reward.version) for reward in self.rewards.values())
        return f'"c{self.program.version}-{self.rules_version}-{self.tiers_version}-{offered}"'


def parse(text: bytes | str) -> Configuration:
    """The configuration that a YAML text writes. MalformedYaml, ValidationFailed with all defects of form."""
    return parse_json(orjson.dumps(read(text)))


def parse_json(raw: bytes) -> Configuration:
    """The configuration that a JSON text writes. MalformedJson, ValidationFailed with all defects of form."""
    bodies.parse_json(raw)
    configuration: Configuration = bodies.validate(Configuration, raw)
    return configuration


def present(db: Mongo, program_id: str) -> Present:
    """The configuration of a program as it is now. NotFound when there is no such program.

    Of rewards with one name, which the API allows, the document knows the oldest.
    """
    program = programs.read(db, program_id)
    rule_version, tier_version = rules.latest(db, program_id), tiers.latest(db, program_id)
    offered: dict[str, Reward] = {}
    for reward in _rewards(db, program_id):
        offered.setdefault(reward.name, reward)
    configuration = Configuration(
        format=1,
        program=Settings(**{name: getattr(program, name) for name in Settings.model_fields}),
        rules=rule_version.rule_set if rule_version else None,
        tiers=tier_version.scheme if tier_version else None,
        rewards=[
            RewardSettings(**{name: getattr(reward, name) for name in RewardSettings.model_fields})
            for reward in offered.values()
        ],
    )
    return Present(
        program,
        configuration,
        rule_version.version if rule_version else 0,
        tier_version.version if tier_version else 0,
        offered,
    )


def document(configuration: Configuration) -> Json:
    """The configuration as plain values, conditions as texts."""
    plain: Json = {"format": configuration.format}
    if configuration.program is not None:
        plain["program"] = configuration.program.model_dump(mode="json")
    if configuration.rules is not None:
        plain["rules"] = diff.readable(configuration.rules)
    if configuration.tiers is not None:
        plain["tiers"] = configuration.tiers.model_dump(mode="json")
    if configuration.rewards is not None:
        plain["rewards"] = [reward.model_dump(mode="json") for reward in configuration.rewards]
    return plain


def to_yaml(configuration: Configuration) -> str:
    """The configuration as YAML; `parse` gives it back."""
    return write(document(configuration))


def compare(before: Configuration, after: Configuration) -> list[Difference]:
    """What applying `after` changes where `before` is: parts that it does not have stay."""
    left, right = document(before), document(after)
    parts = [part for part in right if part != "format"]
    return [found for part in parts for found in _that_matter(differences(left.get(part, {}), right[part], f"/{part}"))]


def check(before: Present, configuration: Configuration) -> None:
    """ValidationFailed with everything for which the configuration cannot be applied to the program as it is."""
    found = []
    program = before.program
    wanted = configuration.program
    if wanted is not None and wanted.currency != program.currency:
        detail = f"The program counts in {program.currency}, for ever."
        found.append({"pointer": "/program/currency", "code": "currency_mismatch", "detail": detail})
    if wanted is not None:
        try:
            programs.check(wanted.policies, program.currency, wallets=program.policies.wallets)
        except ValidationFailed as refused:
            found += [{**defect, "pointer": f"/program{defect['pointer']}"} for defect in refused.extra["errors"]]
    after = _as_wanted(program, configuration)
    scheme = configuration.tiers or before.configuration.tiers
    levels = None if scheme is None else [level.id for level in scheme.levels]
    if configuration.rules is not None:
        for defect in checks.defects(configuration.rules, program.currency, after.policies, levels):
            found.append({**defect, "pointer": f"/rules{defect['pointer']}"})
    if configuration.tiers is not None:
        for defect in tiers.defects(configuration.tiers, after):
            found.append({**defect, "pointer": f"/tiers{defect['pointer']}"})
    for place, reward in enumerate(configuration.rewards or ()):
        if reward.wallet not in after.policies.wallets:
            detail = f"The program has no wallet {reward.wallet}."
            found.append({"pointer": f"/rewards/{place}/wallet", "code": "unknown_wallet", "detail": detail})
    if found:
        raise ValidationFailed("Correct the fields that `errors` names.", errors=found)


def apply(
    db: Mongo, before: Present, configuration: Configuration, *, applied_by: str, clock: Clock
) -> tuple[list[str], list[Difference]]:
    """Make the program what the configuration says; the parts that changed, and how. Again changes nothing.

    `before` is what the caller decided on: PreconditionFailed when a part has changed since; ApprovalRequired where
    rules would change that the program wants two people to decide on. Parts are applied one
    after the other (settings, rules, tiers, rewards), so after a crash in between the rest is done by applying again.
    """
    check(before, configuration)
    found = compare(before.configuration, configuration)
    parts = list(dict.fromkeys(difference.path.split("/")[1] for difference in found))
    if "rules" in parts:
        rules.refuse_alone(before.program)
    program = before.program
    if "program" in parts and configuration.program is not None:
        settings = configuration.program
        changes = {name: getattr(settings, name) for name in Settings.model_fields if name != "currency"}
        program = programs.change(db, program.id, expected_version=program.version, changes=changes)
    if "rules" in parts and configuration.rules is not None:
        rules.put_in_force(
            db, program, configuration.rules, after=before.rules_version, published_by=applied_by, clock=clock
        )
    if "tiers" in parts and configuration.tiers is not None:
        tiers.publish(
            db,
            program,
            configuration.tiers,
            expected_version=before.tiers_version,
            published_by=applied_by,
            clock=clock,
        )
    if "rewards" in parts and configuration.rewards is not None:
        _apply_rewards(db, before, configuration.rewards, clock)
    return parts, found


def require(before: Present, tag: str | None) -> None:
    """PreconditionFailed unless the program is as the client's If-Match says."""
    if tag not in (None, "*", before.tag):
        raise PreconditionFailed(f"The configuration has the tag {before.tag} now. Read it again.")


def _apply_rewards(db: Mongo, before: Present, wanted: list[RewardSettings], clock: Clock) -> None:
    for settings in wanted:
        fields = settings.model_dump()
        offered = before.rewards.get(settings.name)
        if offered is None:
            rewards.create(db, before.program.id, clock=clock, **fields)
        elif any(getattr(offered, name) != value for name, value in fields.items()):
            del fields["name"]
            rewards.change(db, before.program.id, offered.id, expected_version=offered.version, changes=fields)
    names = {settings.name for settings in wanted}
    for name, offered in before.rewards.items():
        if name not in names and offered.available:
            rewards.change(
                db, before.program.id, offered.id, expected_version=offered.version, changes={"available": False}
            )


def _that_matter(found: Iterator[Difference]) -> Iterator[Difference]:
    """Not the order of rules and rewards, and no reward off the offer that the document does not name."""
    for difference in found:
        off_the_offer = (
            difference.path.startswith("/rewards/")
            and difference.after is ABSENT
            and isinstance(difference.before, dict)
            and not difference.before["available"]
        )
        if difference.path not in ("/rules/rules/order", "/rewards/order") and not off_the_offer:
            yield difference


def _as_wanted(program: Program, configuration: Configuration) -> Program:
    """The program with the settings that the configuration would give it."""
    if configuration.program is None:
        return program
    settings = configuration.program
    return Program.from_document(
        {**program.to_document(), "timezone": settings.timezone, "policies": settings.policies.model_dump(mode="json")}
    )


def _rewards(db: Mongo, program: str) -> Iterator[Reward]:
    after: str | None = None
    while page := rewards.list_rewards(db, program, limit=_REWARD_PAGE, after=after):
        yield from page
        after = page[-1].id
