"""What Flask costs at least: one handler that inserts one document, and one that finds one.

It runs as `loyalty.app:create_app()` does: the same gunicorn configuration, processes, threads and driver options.
BENCH_MONGO_URI names a database server in which the database `loyalty_bench` may be written.
"""

from __future__ import annotations

import os
import threading
from typing import Any

from flask import Flask, Response, jsonify, request
from pymongo import MongoClient
from pymongo.database import Database
from pymongo.write_concern import WriteConcern

DATABASE = "loyalty_bench"

_lock = threading.Lock()
_made: dict[int, Database[dict[str, Any]]] = {}


def database() -> Database[dict[str, Any]]:
    """One client a process, made after the fork."""
    with _lock:
        if os.getpid() not in _made:
            client: MongoClient[dict[str, Any]] = MongoClient(os.environ["BENCH_MONGO_URI"], maxPoolSize=32)
            concern = WriteConcern(w="majority", j=True)
            _made[os.getpid()] = client.get_database(DATABASE, write_concern=concern)
        return _made[os.getpid()]


def create_app() -> Flask:
    app = Flask("baseline")

    @app.post("/insert")
    def insert() -> tuple[Response, int]:
        document = request.get_json()
        result = database().inserted.insert_one(document)
        return jsonify(id=str(result.inserted_id)), 201

    @app.get("/find/<member>")
    def find(member: str) -> Response:
        return jsonify(database().members.find_one({"_id": member}))

    @app.get("/readyz")
    def ready() -> Response:
        return jsonify(ready=True)

    return app
