"""Puts the baseline on a lab server beside the application, and takes it away again. Runs there, as root.

The baseline is a third colour of the unit template: the same sandbox, gunicorn configuration, number of processes and
threads, and the same NGINX in front, under a host name of its own. It gets a database user of its own for as long as it
is there. Usage: `python on_server.py prepare|seed|remove`, the first two with the administrator's password of MongoDB
in standard input.
"""

from __future__ import annotations

import secrets
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

from bson import json_util
from pymongo import MongoClient
from pymongo.errors import OperationFailure

HERE = Path(__file__).resolve().parent
RELEASE = Path("/opt/loyalty/bench")
ENVIRONMENT = RELEASE / "release.env"
UPSTREAM = Path("/etc/nginx/loyalty/upstream.conf")
KEPT = HERE / "upstream.conf"
CREDENTIAL = Path("/etc/loyalty/credentials/mongo_uri")
ADMIN_ENVIRONMENT = HERE / "admin.uri"
HOST_NAME = "bench.invalid"
DATABASE = "loyalty_bench"
MEMBERS = 23_570

NGINX = f"""
upstream loyalty_bench {{
    server unix:/run/loyalty-bench/gunicorn.sock max_fails=0;
    keepalive 32;
    keepalive_requests 100000;
    keepalive_timeout 25s;
}}
server {{
    listen 443 ssl http2;
    server_name {HOST_NAME};
    client_max_body_size 8m;
    limit_req zone=loyalty_requests burst=6000 nodelay;
    limit_conn loyalty_connections 512;
    location / {{
        proxy_pass http://loyalty_bench;
    }}
}}
"""


def main() -> None:
    verb = sys.argv[1]
    if verb == "prepare":
        prepare(uri_of("admin", sys.stdin.read()))
    elif verb == "seed":
        with MongoClient[dict[str, Any]](uri_of("admin", sys.stdin.read())) as client:
            print(json_util.dumps(seed(client)))
    elif verb == "remove":
        remove()
    else:
        sys.exit(f"unknown verb {verb!r}: prepare, seed or remove")


def seed(client: MongoClient[dict[str, Any]]) -> dict[str, Any]:
    """Give the baseline something to find: what a balance is read from, for each member. Returns one ledger entry."""
    entry = client.loyalty.ledger.find_one({"kind": "earn"})
    if entry is None:
        sys.exit("the ledger is empty; record events first")
    like = {"state": entry["state"], "recorded_at": entry["recorded_at"]}
    members = [{**like, "_id": f"{number:05d}"} for number in range(1, MEMBERS + 1)]
    client[DATABASE].members.drop()
    client[DATABASE].members.insert_many(members, ordered=False)
    return entry


def uri_of(user: str, password: str) -> str:
    """The application's own connection string with another user in it."""
    parts = urlsplit(CREDENTIAL.read_text().strip())
    hosts = parts.netloc.rpartition("@")[2]
    query = "&".join(pair for pair in parts.query.split("&") if pair and not pair.startswith("authSource="))
    netloc = f"{user}:{quote(password, safe='')}@{hosts}"
    return urlunsplit((parts.scheme, netloc, "/", f"authSource=admin&{query}", ""))


def prepare(admin_uri: str) -> None:
    remove()
    password = secrets.token_urlsafe(24)
    ADMIN_ENVIRONMENT.touch(mode=0o600)
    ADMIN_ENVIRONMENT.write_text(admin_uri)
    with MongoClient[dict[str, Any]](admin_uri) as client:
        role = {"role": "readWrite", "db": DATABASE}
        client.admin.command("createUser", "bench", pwd=password, roles=[role])
    shutil.copytree(HERE / "app", RELEASE / "app")
    current = Path("/opt/loyalty/current").resolve()
    shutil.copy(current / "app" / "loyalty" / "gunicorn.conf.py", RELEASE / "app" / "loyalty")
    # The files came over SSH, under a hardened root's umask.
    subprocess.run(["chmod", "--recursive", "u=rwX,go=rX", str(RELEASE)], check=True)
    (RELEASE / "venv").symlink_to(current / "venv")
    ENVIRONMENT.touch(mode=0o600)
    ENVIRONMENT.write_text(f'BENCH_MONGO_URI="{uri_of("bench", password)}"\n')
    subprocess.run(["systemctl", "start", "loyalty@bench.service"], check=True)
    shutil.copy(UPSTREAM, KEPT)
    UPSTREAM.write_text(KEPT.read_text() + NGINX)
    subprocess.run(["nginx", "-t", "-q"], check=True)
    subprocess.run(["systemctl", "reload", "nginx.service"], check=True)


def remove() -> None:
    """Whatever `prepare` left, also when it stopped half way."""
    subprocess.run(["systemctl", "stop", "loyalty@bench.service"], check=False, capture_output=True)
    if KEPT.exists():
        shutil.copy(KEPT, UPSTREAM)
        subprocess.run(["systemctl", "reload", "nginx.service"], check=True)
        KEPT.unlink()
    shutil.rmtree(RELEASE, ignore_errors=True)
    if ADMIN_ENVIRONMENT.exists():
        with MongoClient[dict[str, Any]](ADMIN_ENVIRONMENT.read_text()) as client:
            client.drop_database(DATABASE)
            try:
                client.admin.command("dropUser", "bench")
            except OperationFailure as error:
                if error.code != 11:  # there is none
                    raise
        ADMIN_ENVIRONMENT.unlink()


if __name__ == "__main__":
    main()
