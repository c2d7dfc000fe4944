"""A lab site as the bench and the long fault run reach it: over HTTPS like any client, over SSH like its operator."""

from __future__ import annotations

import json
import secrets
import ssl
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from loyalty.ops.ansible import command_line
from loyalty.ops.environment import tool_environment
from loyalty.ops.errors import Failure
from loyalty.ops.info import access, read_vault
from loyalty.ops.lab import Lab
from loyalty.ops.site import CHECKOUT

LEDGER = "sorted((e['_id'], e['hash'].hex()) for e in db.ledger.find({}, {'hash': 1}))"
"""What `LabSite.ask` is asked for the ids and hashes of all entries."""

_ASK = """
import bson, json, pymongo
client = pymongo.MongoClient({options})
db = client.loyalty
try:
    print(json.dumps({expression}, default=str))
except pymongo.errors.PyMongoError:
    print("null")
"""


class LabSite:
    """The site `name` that `./appliance up` made, with its server `host`.

    Or `installed_as` a site with an inventory of its own, on servers that the lab made.
    """

    def __init__(self, name: str, host: str = "box1", *, installed_as: str = "") -> None:
        self.lab = Lab(name, [host])
        self.host = host
        self.address = self.lab.address(host)
        found = access(installed_as or name)
        self.url = f"https://{self.address}" if installed_as else found.url
        self.api_key = found.api_key
        self.verify = ssl.create_default_context(cafile=found.ca_file)
        self._vault = Path(found.vault_file)
        self.directory = self._vault.parent

    def client(self, api_key: str | None = None, *, timeout_s: float = 60) -> httpx.Client:
        """A client with the site's own key, or with another."""
        headers = {"Authorization": f"Bearer {api_key or self.api_key}"}
        return httpx.Client(base_url=self.url, verify=self.verify, headers=headers, timeout=timeout_s)

    def new_program(self, prefix: str) -> str:
        """A key with every scope, to a sandbox program that may be filled with anything."""
        return new_program(self.client(), prefix)

    def secret(self, name: str) -> str:
        """A secret of the site's vault."""
        return read_vault(self._vault)[name]

    def run(self, command: Sequence[str], *, input_text: str | None = None) -> str:
        """Run a command as root on the server. Failure with what it said."""
        return self.run_on(self.host, command, input_text=input_text)

    def run_on(self, host: str, command: Sequence[str], *, input_text: str | None = None) -> str:
        """Run a command as root on a server of the site. Failure with what it said."""
        done = self.lab.ssh(host, command, input_text=input_text)
        if done.returncode:
            line = " ".join(command)[:120]
            raise Failure(f"On {host}, `{line}` failed: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def run_playbook(self, name: str, *, extra: Mapping[str, Any] | None = None, options: Sequence[str] = ()) -> str:
        """Run a playbook on the site, as its operator does; what it said. Failure with the end of it."""
        line = command_line(name, self.lab.site, extra=extra, options=options)
        done = subprocess.run(line, cwd=CHECKOUT, env=tool_environment(), capture_output=True, text=True, check=False)
        if done.returncode:
            raise Failure(f"The playbook {name} failed:\n{done.stdout[-3000:]}")
        return done.stdout

    def ask(self, host: str, expression: str, *, port: int = 27017, tls: bool = True) -> Any:
        """What the mongod of a server answers its administrator: `ask("db1", "client.admin.command('hello')")`.

        None when it does not answer.
        """
        options: dict[str, Any] = {"host": "localhost", "port": port, "directConnection": True}
        options |= {"username": "admin", "password": self.secret("vault_mongodb_admin_password")}
        options |= {"serverSelectionTimeoutMS": 5000}
        if tls:
            options |= {"tls": True, "tlsCAFile": "/etc/loyalty/tls/ca.crt"}
        program = _ASK.format(options=f"**{options!r}", expression=expression)
        # By standard input: a secret has no place among arguments.
        command = ["/opt/loyalty/ops-venv/bin/python", "-"]
        return json.loads(self.run_on(host, command, input_text=program))


def changed(said: str) -> list[str]:
    """The hosts that a playbook has changed, as its totals show them."""
    totals = said.split("PLAY RECAP")[1].splitlines()
    return [line for line in totals if "changed=" in line and "changed=0 " not in line]


def new_program(client: httpx.Client, prefix: str) -> str:
    """A key to a new sandbox program of the site that `client` leads to; closes the client."""
    with client:
        program = {"id": f"{prefix}-{secrets.token_hex(4)}", "name": prefix, "currency": "USD", "mode": "sandbox"}
        answer = client.post("/v1/programs", json=program)
        if not answer.is_success:
            raise Failure(f"{client.base_url} made no program: {answer.status_code} {answer.text[:300]}")
        key: str = answer.json()["key"]["secret"]
        return key
