"""The answer to an act, the same for all of them: what was done, the entry, and what the member has after it."""

from __future__ import annotations

from typing import Any

import orjson

from loyalty.infra.http.reply import Reply
from loyalty.points.acts import Done
from loyalty.points.model import buckets_json, entry_json


def acted(done: Done, **more: Any) -> Reply[Any]:
    """An `ActOut` with `more` in it: the endpoint's own status, or 200 for what its Idempotency-Key had done before."""
    answer = {
        **more,
        "entry": entry_json(done.entry),
        "balances": buckets_json(done.entry),
        "replayed": done.replayed,
    }
    headers = {"Idempotent-Replayed": "true"} if done.replayed else {}
    return Reply(orjson.dumps(answer), status=200 if done.replayed else None, headers=headers)
