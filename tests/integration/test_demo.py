"""The demo's load against the running application: complete, repeatable, and able to be interrupted."""

from __future__ import annotations

import httpx
import pytest

from loyalty.ops import demo
from loyalty.ops.errors import Failure
from tests.servers import Application, Mongod, new_program

SAMPLE = 3000


def test_the_history_is_what_its_readme_says() -> None:
    history = demo.purchases()
    assert len(history) == 69_659
    assert len({purchase.customer for purchase in history}) == 23_570
    assert sum(purchase.points for purchase in history) == 2_453_159
    assert len({purchase.row for purchase in history}) == len(history)


def test_a_load_is_complete_and_a_second_one_changes_nothing(application: Application, api_key: str) -> None:
    seen: list[tuple[int, int]] = []

    def load() -> demo.Loaded:
        return demo.load(
            url=application.url,
            ca_file=None,
            api_key=api_key,
            limit=SAMPLE,
            progress=lambda done, total: seen.append((done, total)),
        )

    first = load()
    history = demo.purchases(SAMPLE)
    assert (first.applied, first.replayed) == (SAMPLE, 0)
    assert first.points == sum(purchase.points for purchase in history)
    assert first.members == len({purchase.customer for purchase in history})
    assert seen[-1] == (SAMPLE, SAMPLE)

    second = load()
    assert (second.applied, second.replayed) == (0, SAMPLE)
    assert (second.points, second.members) == (first.points, first.members)


def test_each_member_has_the_points_of_their_purchases(
    application: Application, api_key: str, api: httpx.Client
) -> None:
    demo.load(url=application.url, ca_file=None, api_key=api_key, limit=500)
    points: dict[str, int] = {}
    for purchase in demo.purchases(500):
        points[purchase.customer] = points.get(purchase.customer, 0) + purchase.points
    for customer in sorted(points)[:25]:
        balance = api.get(f"/v1/members/ext:{customer}/balance").json()
        assert balance["wallets"]["points"]["available"] == points[customer]


def test_a_program_of_another_currency_is_refused_before_anything_is_sent(
    application: Application, mongod: Mongod
) -> None:
    key = new_program(mongod.uri, "application", currency="JPY")
    with pytest.raises(Failure, match="JPY"):
        demo.load(url=application.url, ca_file=None, api_key=key, limit=10)


def test_a_wrong_key_is_refused_with_the_remedy(application: Application) -> None:
    with pytest.raises(Failure) as refusal:
        demo.load(url=application.url, ca_file=None, api_key="lk_" + "x" * 43, limit=10)
    assert "Check the key" in refusal.value.remedy
