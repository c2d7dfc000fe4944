"""A tier of a balance, as it had happened: told at once, it is the tier that was there at the time."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime, timedelta, timezone
from typing import Any

import hypothesis.strategies as st
from hypothesis import HealthCheck, given, settings

from loyalty.ledger.as_of import happened, replay
from loyalty.ledger.state import Refusal
from loyalty.tiers import engine as tiers
from loyalty.tiers.as_of import followed
from tests.model.engine_side import Engine

START = datetime(2027, 3, 26, 12, tzinfo=timezone.utc)
LEVELS = [
    {"id": level, "threshold": least, "multiplier_milli": 1000}
    for level, least in (("base", 0), ("silver", 20), ("gold", 60))
]

steps = st.lists(
    st.tuples(
        st.sampled_from(["adjust", "adjust", "spend", "hold", "other"]),
        st.sampled_from([5, 20, 40, 100]),
        st.sampled_from([1, 13, 24, 100]),
        st.none() | st.sampled_from([1, 3]),
    ),
    min_size=1,
    max_size=10,
)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    taken=steps,
    to=st.sampled_from(["none", "one_level", "full"]),
    grace=st.sampled_from([0, 1, 3]),
    rest=st.integers(0, 9),
)
def test_what_was_told_at_once_is_the_tier_as_it_was(
    taken: list[tuple[str, int, int, int | None]], to: str, grace: int, rest: int
) -> None:
    """Case 3.20, for tiers that look at a balance."""
    program: dict[str, Any] = {
        "zone": "Europe/Berlin",
        "policies": {"wallets": {"points": {}, "status": {}}},
        "rules": {"rules": [{"id": "base", "type": "points_per_spend", "points": 1, "per": "1.00"}]},
        "tiers": {
            "basis": {"type": "balance", "wallet": "points"},
            "window": {"type": "lifetime"},
            "levels": LEVELS,
            "downgrade": {"to": to, "grace_days": grace},
        },
    }
    engine, now = Engine(program, START), START
    scheme, calendar = engine.terms.tiers, engine.terms.calendar
    assert scheme is not None
    seen = []
    for number, (act, points, hours, days) in enumerate(taken):
        now += timedelta(hours=hours)
        with suppress(Refusal):
            if act == "adjust":
                engine.adjust("points", points, now, None if days is None else now + timedelta(days=days, minutes=7))
            elif act == "spend":
                engine.spend("points", points, now, number)
            elif act == "hold":
                engine.hold("points", points, 3_600 * (days or 30), now)
            else:
                engine.adjust("status", points, now, None)
        seen.append((now, engine.standing(now)))
    now += timedelta(days=rest, minutes=1)
    seen.append((now, engine.standing(now)))
    for instant, standing in seen:
        moved = happened(replay(engine.chain.entries, instant), instant)
        facet, state = followed(moved, engine.chain.entries, scheme, calendar, instant, joined_on=engine.joined_on)
        found = tiers.standing(facet, scheme, calendar, instant, joined_on=engine.joined_on, state=state)
        assert (found.level, found.value, found.drop_at) == (standing.level, standing.value, standing.drop_at), instant
