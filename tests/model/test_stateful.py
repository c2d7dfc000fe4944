"""A slice of the search, for about a minute; `python -m tests.model` is the long run."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.model import programs
from tests.model.engine_side import Engine
from tests.model.machines import MACHINES
from tests.model.naive_rules import Json, instant_of
from tests.model.search import search_for

SECONDS = 60


@pytest.mark.parametrize("name", sorted(MACHINES))
def test_no_history_is_found_on_which_engine_and_model_differ(name: str) -> None:
    assert search_for(MACHINES[name], SECONDS / len(MACHINES)) > 0


def without_memory(program: Json) -> Json:
    """The program without what makes one event depend on others: caps, counters, tiers, bounds, inactivity."""
    wallets = {
        name: {key: value for key, value in policy.items() if key != "max_balance"}
        for name, policy in program["policies"]["wallets"].items()
    }
    for policy in wallets.values():
        if policy.get("expiry", {}).get("type") == "inactivity":
            del policy["expiry"]
    rules = []
    for rule in program["rules"]["rules"]:
        kept = {name: value for name, value in rule.items() if name not in ("caps", "campaign")}
        if "counters" in str(kept.get("when")):
            del kept["when"]
        if kept["type"] == "fixed" and not {"when", "events"} & set(kept):
            kept["events"] = ["purchase"]
        rules.append(kept)
    rule_set = {**program["rules"], "rules": rules, "campaigns": []}
    return {**program, "policies": {"wallets": wallets}, "rules": rule_set, "tiers": None}


def balances(program: Json, told: list[Json]) -> dict[str, Any]:
    """What the member has after events that all become known at once, in this order."""
    now = instant_of(program["start"])
    engine = Engine(program, now)
    for event in told:
        engine.event(event, now)
    return {
        name: (
            wallet.available,
            wallet.pending,
            {(lot.activates_at, lot.expires_at): lot.points for lot in wallet.lots},
        )
        for name, wallet in engine.at(now).wallets.items()
    }


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    program=programs.programs.map(without_memory),
    bought=st.lists(st.tuples(programs.purchases, st.sampled_from([0, 1, 30]), st.booleans()), min_size=2, max_size=5),
    data=st.data(),
)
def test_independent_events_come_to_the_same_in_any_order(
    program: Json, bought: list[tuple[Json, int, bool]], data: st.DataObject
) -> None:
    """Case 3.21: also when a refund comes before its purchase."""
    now = instant_of(program["start"])
    told: list[Json] = []
    for number, (event, days, refunded) in enumerate(bought):
        plain = {name: value for name, value in event.items() if name != "payments"}
        told.append(
            {
                "id": f"e{number}",
                "currency": "USD",
                **plain,
                "occurred_at": (now - timedelta(days=days)).isoformat(),
            }
        )
        if refunded:
            told.append({"id": f"r{number}", "type": "refund", "refers_to": f"e{number}"})
    shuffled = data.draw(st.permutations(told))
    assert balances(program, told) == balances(program, list(shuffled))
