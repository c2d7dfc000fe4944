"""Every collection, index and validator of the product, gathered from the features that own them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from loyalty.auth import service as auth
from loyalty.infra.http import idempotency
from loyalty.infra.migrations import Indexes, Migration, migrate
from loyalty.infra.mongo import Document, Mongo
from loyalty.programs import service as programs

INDEXES: Sequence[Indexes] = (programs.INDEXES, auth.INDEXES, idempotency.INDEXES)
VALIDATORS: Mapping[str, Document] = {}
MIGRATIONS: Sequence[Migration] = ()


def migrate_all(db: Mongo) -> list[str]:
    """Bring `db` to the form this release expects; a line for each thing done."""
    return migrate(db, migrations=MIGRATIONS, indexes=INDEXES, validators=VALIDATORS)
