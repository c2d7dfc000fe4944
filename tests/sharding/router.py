"""A router in front of a ledger that is partitioned by member, as `mongos` would be.

Shards are databases of one replica set, so that a transaction can span them; everything else is real: the entries, the
indexes, and the code of the application, which does not know. The router sends a command where its filter lets it, by
the rules that docs/decisions says the shard key has, and remembers whom each operation made it ask.

Keys of operations are looked up with the members that the operation names (`{m, keys}` of the plan). A command that no
rule can place is an error here: in production it would ask every shard.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from pymongo.collection import Collection
from pymongo.results import InsertManyResult, InsertOneResult

from loyalty.infra.ids import member_number
from loyalty.infra.mongo import Document, Mongo
from loyalty.ledger.entry import SEQUENCE_BITS, member_of
from loyalty.members import service as members

PARTITIONED = ("ledger", "wallets")


class Router:
    """Stands for the database: `ledger` and `wallets` are partitioned, the rest is where it was."""

    def __init__(self, whole: Mongo, shards: Sequence[Mongo]) -> None:
        self.whole = whole
        self.shards = shards
        self.client = whole.client
        self.name = whole.name
        self.asked: set[int] = set()
        self._named: list[str] = []
        self._program = ""
        self._routed = {name: Routed(self, name) for name in PARTITIONED}

    def with_options(self, **options: Any) -> Router:
        """The same database, read or written otherwise; what it asks counts for the same operation."""
        other = Router(self.whole.with_options(**options), [shard.with_options(**options) for shard in self.shards])
        other.asked, other._named, other._program = self.asked, self._named, self._program
        return other

    def __getitem__(self, name: str) -> Any:
        if name in self._routed:
            return self._routed[name]
        return Members(self) if name == members.COLLECTION else self.whole[name]

    def __getattr__(self, name: str) -> Any:
        return self[name]

    @contextmanager
    def operation(self, program: str, *named: str) -> Iterator[set[int]]:
        """One operation that names these members; the set has the shards that it asked."""
        self.asked.clear()
        self._program, self._named = program, list(named)
        yield self.asked
        self._named = []

    def place(self, member: int) -> int:
        """The shard of a member's chain. The plan hashes the number; any function of it will do."""
        return member % len(self.shards)

    def named(self) -> set[int]:
        """The shards of the members that the operation names: of their chains, and of those merged into them."""
        if not self._named:
            raise AssertionError("keys are looked up in an operation that names no member: every shard would be asked")
        numbers = [number for text in self._named if (number := member_number(text)) is not None]
        handles = [text for text in self._named if member_number(text) is None]
        known = members.resolve(self.whole, self._program, handles) if handles else {}
        return {self.place(number) for number in [*numbers, *(member.number for member in known.values())]}


class Routed:
    """A partitioned collection, as far as the application uses it."""

    def __init__(self, router: Router, name: str) -> None:
        self._router = router
        self._name = name
        self.database = router

    def with_options(self, **options: Any) -> Routed:
        """The same collection, read or written otherwise."""
        return Routed(self._router.with_options(**options), self._name)

    def find(self, wanted: Mapping[str, Any], fields: Any = None, **options: Any) -> Iterator[Document]:
        found: list[Document] = []
        for shard in self._ask(self._places(wanted)):
            found += shard.find(wanted, fields, **options)
        if sort := options.get("sort"):
            ((field, direction),) = sort
            found.sort(key=lambda document: document[field], reverse=direction < 0)
        limit = options.get("limit") or len(found)
        return iter(found[:limit])

    def find_one(self, wanted: Mapping[str, Any], fields: Any = None, **options: Any) -> Document | None:
        return next(self.find(wanted, fields, **options, limit=1), None)

    def insert_one(self, document: Document) -> InsertOneResult:
        (shard,) = self._ask({self._place_of(document)})
        return shard.insert_one(document)

    def insert_many(
        self, documents: Sequence[Document], *, ordered: bool = True, session: Any = None
    ) -> InsertManyResult:
        by_place: dict[int, list[Document]] = {}
        for document in documents:
            by_place.setdefault(self._place_of(document), []).append(document)
        if len(by_place) > 1 and session is None:
            raise AssertionError("one insert for several shards outside of a transaction")
        for place, part in by_place.items():
            (shard,) = self._ask({place})
            result = shard.insert_many(part, ordered=ordered, session=session)
        return result

    def heads(self, number: int) -> list[Document]:
        """What a `$lookup` of the chain's end finds."""
        chain = {"_id": {"$gt": number << SEQUENCE_BITS, "$lt": (number + 1) << SEQUENCE_BITS}}
        return list(self.find(chain, {"state": 1, "hash": 1, "recorded_at": 1}, sort=[("_id", -1)], limit=1))

    def _ask(self, places: Iterable[int]) -> list[Collection[Document]]:
        chosen = sorted(places)
        self._router.asked.update(chosen)
        return [self._router.shards[place][self._name] for place in chosen]

    def _place_of(self, document: Mapping[str, Any]) -> int:
        return self._router.place(self._member(document["_id"]))

    def _member(self, number: int) -> int:
        return member_of(number) if self._name == "ledger" else number

    def _places(self, wanted: Mapping[str, Any]) -> set[int]:
        """The shards that can have what is wanted."""
        parts = [wanted, *wanted.get("$and", [])]
        for part in parts:
            number = part.get("_id")
            if isinstance(number, int):
                return {self._router.place(self._member(number))}
            if isinstance(number, Mapping) and "$in" in number:
                return {self._router.place(self._member(one)) for one in number["$in"]}
            if isinstance(number, Mapping) and {"$gt", "$lt"} <= number.keys():
                chains = {self._member(number["$gt"]), self._member(number["$lt"] - 1)}
                if len(chains) == 1:  # a page or all of one chain
                    return {self._router.place(*chains)}
        if "keys" in wanted:
            return self._router.named()
        raise AssertionError(f"{self._name} is asked for {dict(wanted)}: every shard would be asked")


class Members:
    """The members, which are not partitioned; their chains' ends are joined from the shard of each."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self._whole = router.whole[members.COLLECTION]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._whole, name)

    def aggregate(self, stages: Sequence[Mapping[str, Any]]) -> Iterator[Document]:
        local = [stage for stage in stages if stage.get("$lookup", {}).get("from") != "ledger"]
        for document in self._whole.aggregate(local):
            if len(local) < len(stages):
                document["head"] = self._router["ledger"].heads(document["_id"])
            yield document
