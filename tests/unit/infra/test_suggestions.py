"""What was probably meant, wherever in a body a name is misspelt."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from loyalty.configuration.model import Configuration
from loyalty.events.model import NewEvent
from loyalty.infra.http.body import validate
from loyalty.infra.http.model import Body
from loyalty.infra.problems import ValidationFailed
from loyalty.infra.suggestions import suggestion

RULE = {"id": "base", "type": "points_per_spend", "points": 1, "per": "1.00"}
PURCHASE = {"source": "till", "id": "1", "type": "purchase", "member": {"external_id": "ada"}}


def rules(*told: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"format": 1, "rules": {"rules": list(told), **more}}


def settings(**wallet: Any) -> dict[str, Any]:
    program = {"name": "A", "currency": "USD", "timezone": "UTC", "policies": {"wallets": {"points": wallet}}}
    return {"format": 1, "program": program}


@pytest.mark.parametrize(
    ("model", "body", "pointer", "meant"),
    [
        (Configuration, {"format": 1, "ruels": {}}, "/ruels", "rules"),
        (Configuration, rules({**RULE, "prioritiy": 3}), "/rules/rules/0/prioritiy", "priority"),
        (Configuration, rules({**RULE, "caps": {"per_moth": 3}}), "/rules/rules/0/caps/per_moth", "per_month"),
        (Configuration, rules({**RULE, "basis": {"excldue": "x"}}), "/rules/rules/0/basis/excldue", "exclude"),
        (Configuration, rules({**RULE, "type": "points_per_spent"}), "/rules/rules/0", "points_per_spend"),
        (Configuration, rules({**RULE, "rounding": "halfup"}), "/rules/rules/0/rounding", "half_up"),
        (Configuration, rules(RULE, stacking="mulitply"), "/rules/stacking", "multiply"),
        (Configuration, settings(spendabel=True), "/program/policies/wallets/points/spendabel", "spendable"),
        (
            Configuration,
            settings(expiry={"type": "rolling", "month": 12}),
            "/program/policies/wallets/points/expiry/month",
            "months",
        ),
        (Configuration, settings(expiry={"type": "roling"}), "/program/policies/wallets/points/expiry", "rolling"),
        (NewEvent, {**PURCHASE, "amuont": "5.00"}, "/amuont", "amount"),
        (NewEvent, {**PURCHASE, "items": [{"line_id": "1", "catgory": "x"}]}, "/items/0/catgory", "category"),
        (NewEvent, {**PURCHASE, "member": {"externalid": "ada"}}, "/member/externalid", "external_id"),
    ],
)
def test_a_misspelt_name_is_refused_with_the_one_that_was_meant(
    model: type[Body], body: dict[str, Any], pointer: str, meant: str
) -> None:
    with pytest.raises(ValidationFailed) as refusal:
        validate(model, orjson.dumps(body))
    details = {error["pointer"]: error["detail"] for error in refusal.value.extra["errors"]}
    assert f'Perhaps you mean "{meant}".' in details[pointer]


def test_nothing_is_suggested_where_nothing_is_close() -> None:
    assert suggestion("zebra", ["amount", "points"]) == ""
    with pytest.raises(ValidationFailed) as refusal:
        validate(NewEvent, orjson.dumps({**PURCHASE, "zebra": 1}))
    assert refusal.value.extra["errors"][0]["detail"] == "There is no such field here."
