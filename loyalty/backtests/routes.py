"""/v1/backtests"""

from __future__ import annotations

from typing import Annotated

import orjson
from pydantic import Field

from loyalty.backtests import service
from loyalty.backtests.model import BacktestOut, NewBacktest, backtest_json
from loyalty.infra.http.endpoint import Api, Context, Reply
from loyalty.infra.problems import NotFound
from loyalty.programs import service as programs

api = Api(
    "backtests",
    "Back-tests",
    "What other rules or tiers would have given for what really happened. They change nothing.",
)

EXAMPLE = {
    "rules": {"rules": [{"type": "points_per_spend", "id": "base", "points": 2, "per": "1.00"}]},
    "from": "2026-01-01T00:00:00Z",
    "segments": ["tier"],
}

BacktestPath = Annotated[str, Field(description="The id of a back-test.", examples=["bkt_01j00000000000000000000000"])]


@api.post("/v1/backtests", scope="backtests:write", status=202, idempotent=True, problems=(NotFound,), example=EXAMPLE)
def run_backtest(context: Context, body: NewBacktest) -> Reply[BacktestOut]:
    """Try rules on what happened

    The jobs process does it, beginning within seconds; read the back-test again for its progress and its result.
    Conditions look at members as they are today, and at counters as they were kept."""
    db = context.services.db
    program = programs.read(db, context.program)
    document = service.request(db, program, body, by=context.caller.key, clock=context.services.clock)
    return Reply(orjson.dumps(backtest_json(document)), headers={"Location": f"/v1/backtests/{document['_id']}"})


@api.get("/v1/backtests/<backtest>", scope="rules:read", problems=(NotFound,))
def read_backtest(context: Context, backtest: BacktestPath) -> Reply[BacktestOut]:
    """Read a back-test

    Its result is there when `status` is `done`. It is kept for 90 days."""
    return Reply(orjson.dumps(backtest_json(service.read(context.services.db, context.program, backtest))))
