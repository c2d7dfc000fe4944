"""A dump as `mongodump` writes one, for MongoDB's own tools on whatever server has them.

    <folder>/<database>/<collection>.bson             its documents, one after the other
    <folder>/<database>/<collection>.metadata.json    options and indexes, as canonical extended JSON
    <folder>/admin/system.version.bson                that users are stored as servers since 3.0 store them

`mongorestore FOLDER` makes it a database again, `bsondump` shows a file. The layout is that of the MongoDB Database
Tools 100.x (https://www.mongodb.com/docs/database-tools/mongodump/).
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote_plus

import bson
from bson import json_util

from loyalty.backup.dump import COLLECTIONS, DumpError, read_dump
from loyalty.backup.manifest import Archive, Target
from loyalty.backup.raw import write_new
from loyalty.backup.restore import Progress
from loyalty.backup.sealed import read_identity
from loyalty.backup.settings import Settings

_USERS_FORMAT: Final = {"_id": "authSchema", "currentVersion": 5}


def export(settings: Settings, target: Target, archive: Archive, into: Path, *, progress: Progress) -> int:
    """Write the dump to the new folder `into`, in clear, for its owner alone; how many documents.

    DumpError when the folder is there already, Damaged when the dump is not as it was written; nothing is then left.
    """
    try:
        into.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        raise DumpError(f"{into} is there already.", "Name a new folder.") from None
    identity = read_identity(settings.identity_file)
    count = size = 0
    try:
        for raw in read_dump(target, archive, COLLECTIONS, identity):
            one = bson.decode(raw)
            folder = into / one["database"]
            folder.mkdir(mode=0o700, exist_ok=True)
            name = quote_plus(one["name"])
            write_new(folder / f"{name}.metadata.json", [_metadata(one)])
            if one["kind"] != "collection":
                continue
            file = folder / f"{name}.bson"
            count += write_new(file, read_dump(target, archive, f"{one['database']}.{one['name']}", identity))
            size += file.stat().st_size
            progress("export", size, max(archive.bytes, 1))
        if (into / "admin").is_dir():
            write_new(into / "admin" / "system.version.bson", [bson.encode(_USERS_FORMAT)])
    except BaseException:
        shutil.rmtree(into)
        raise
    return count


def _metadata(one: dict[str, Any]) -> bytes:
    described: dict[str, Any] = {"options": one["options"]} if one["options"] else {}
    described |= {"indexes": one["indexes"], "collectionName": one["name"], "type": one["kind"]}
    return json_util.dumps(described, json_options=json_util.CANONICAL_JSON_OPTIONS).encode()
