"""Health: is this process alive, can it do its work, which release is it."""

from __future__ import annotations

import os
import tempfile
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, Final

from pymongo.errors import PyMongoError

from loyalty import __version__
from loyalty.infra.bounded import Bounded
from loyalty.infra.services import Services

_PROBE_SECONDS: Final = 1.5
"""Whoever asks whether we are ready gives up soon."""


def readiness(services: Services) -> tuple[bool, dict[str, Any]]:
    """Whether requests can be served, and each part with its state: up, degraded, down or off."""
    parts = {"mongodb": _mongodb(services), "redis": _redis(services), "storage": _storage(services)}
    ready = parts["mongodb"]["state"] == "up"
    return ready, {"ready": ready, "parts": parts}


def version(services: Services) -> dict[str, str]:
    """What runs here."""
    settings = services.settings
    return {
        "version": __version__,
        "release": settings.release,
        "site": settings.site_name,
        "node": settings.node_name,
    }


def _mongodb(services: Services) -> dict[str, Any]:
    started = perf_counter()
    try:
        hello = services.db.client.admin.command("hello")
    except PyMongoError:
        return {"state": "down", "remedy": "Check the unit mongod and its log; requests get 503 until it answers."}
    if not hello.get("isWritablePrimary"):
        return {"state": "down", "remedy": "No primary: check the replica set's members."}
    return {"state": "up", "milliseconds": _milliseconds(started)}


def _redis(services: Services) -> dict[str, Any]:
    if not services.redis.configured:
        return {"state": "off"}
    started = perf_counter()
    if services.redis.attempt(lambda client: client.ping()) is None:
        return {"state": "degraded", "remedy": "Check the unit redis-server; limits are counted per process meanwhile."}
    return {"state": "up", "milliseconds": _milliseconds(started)}


def _storage(services: Services) -> dict[str, Any]:
    """Never more than degraded: all nodes share one storage, and points need none."""
    started = perf_counter()
    path = services.settings.storage_path
    probe = services.shared("storage.probe", lambda: Bounded("the storage"))
    try:
        probe.call(partial(_write_and_flush, path), seconds=_PROBE_SECONDS)
    except OSError as error:
        return {
            "state": "degraded",
            "remedy": f"{path} cannot be written ({error.strerror}): uploads fail. Check its mount, space and owner.",
        }
    return {"state": "up", "milliseconds": _milliseconds(started)}


def _write_and_flush(path: Path) -> None:
    if (path / "files").is_dir():  # on a server only the folders below are the application's own
        path /= "files"
    with tempfile.NamedTemporaryFile(dir=path, prefix=".probe-") as probe:
        probe.write(b"ready")
        probe.flush()
        os.fsync(probe.fileno())


def _milliseconds(started: float) -> float:
    return round((perf_counter() - started) * 1000, 2)
