"""A tier that is kept open over many facts comes to what facts one after the other come to."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings

from loyalty.tiers.engine import Running, standing
from tests.unit.tiers.test_walk import NOTHING, Story, play, settled, stories


@settings(deadline=None)
@given(stories().filter(lambda story: bool(story.facts)))
def test_facts_in_memory_come_to_the_same(story: Story) -> None:
    facet, transitions = play(story, [])
    facet, more = settled(story, facet, story.end)
    facts = sorted(story.facts, key=lambda fact: fact.told_at)
    options: dict[str, Any] = {"joined_on": story.joined_on, "state": NOTHING}
    running = Running(None, story.scheme, story.calendar, facts[0].told_at, **options)
    found = []
    for fact in facts:
        told: dict[str, Any] = {"day": fact.day, "earned": {}, "spend": 0, "visits": fact.amount, "now": fact.told_at}
        found += running.count(story.scheme, **told, state=NOTHING)
    found += running.settle(story.scheme, story.end, state=NOTHING)
    assert found == transitions + more
    place = standing(facet, story.scheme, story.calendar, story.end, **options)
    assert running.level.id == place.level
