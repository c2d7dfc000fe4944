"""Every write to a collection of a site, as MongoDB's own log of operations has it.

A collection has the last state of its records; here is what came between, whoever wrote it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.lab_site import LabSite


@dataclass(frozen=True)
class Write:
    """A record before and after. What is no number or text in it stands as Python shows it."""

    before: dict[str, Any]
    after: dict[str, Any]

    def changes(self, field: str) -> bool:
        return self.after.get(field) != self.before.get(field)


class Oplog:
    """The writes to `collection` from now on, asked of `host`, which is to stay the primary meanwhile.

    For small collections of flat records, none of which is ever removed.
    """

    def __init__(self, site: LabSite, host: str, collection: str) -> None:
        self._site, self._host, self._collection = site, host, collection
        found = self._ask(f"db.command('find', {collection!r})")
        self._since = found["operationTime"]  # as in "Timestamp(1764421636, 20)"
        self._records = {record["_id"]: record for record in found["cursor"]["firstBatch"]}

    def writes(self) -> list[Write]:
        """All that were made until now, in their order."""
        wanted = f"{{'ns': 'loyalty.{self._collection}', 'ts': {{'$gt': bson.{self._since}}}}}"
        records, writes = dict(self._records), []
        for entry in self._ask(f"list(client.local['oplog.rs'].find({wanted}))"):
            made = entry["o"]
            key = entry.get("o2", made)["_id"]
            before = records.get(key, {})
            if "diff" in made:
                made = before | made["diff"].get("u", {}) | made["diff"].get("i", {})
            records[key] = made
            writes.append(Write(before, made))
        return writes

    def _ask(self, expression: str) -> Any:
        answer = self._site.ask(self._host, expression)
        assert answer is not None, f"the mongod of {self._host} does not answer"
        return answer
