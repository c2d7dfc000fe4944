"""Look at the site as its clients do: from the control node, over the network, trusting what they trust."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase

SECONDS = 5.0


def port_is_open(address: str, port: int, seconds: float = 1.5) -> bool:
    """Whether a connection is accepted. A firewall that drops and a port that refuses are alike here."""
    try:
        with socket.create_connection((address, port), timeout=seconds):
            return True
    except OSError:
        return False


def ask(address: str, name: str, path: str, context: ssl.SSLContext) -> tuple[int, Any]:
    """Status and JSON of GET https://name/path, connected to `address`, with the certificate checked for `name`."""
    connection = http.client.HTTPSConnection(name, 443, timeout=SECONDS, context=context)
    plain = socket.create_connection((address, 443), timeout=SECONDS)
    connection.sock = context.wrap_socket(plain, server_hostname=name)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read() or b"null")
    finally:
        connection.close()


def look(
    host: str, address: str, name: str, ca_file: Path, closed_ports: list[int], *, serves: bool
) -> list[dict[str, Any]]:
    """One row a check of what lies at `address`: `host`, `check`, `ok`, and, where it fails, `found` and `remedy`.

    `serves` says whether clients are served there; the ports in `closed_ports` must be closed to this machine.
    """
    rows: list[dict[str, Any]] = []

    def row(check: str, ok: bool, found: str, remedy: str) -> None:
        rows.append({"host": host, "check": check, "ok": ok, "found": found, "remedy": remedy})

    if serves:
        context = ssl.create_default_context()
        if ca_file.exists():
            context.load_verify_locations(cafile=ca_file)
        try:
            status, ready = ask(address, name, "/readyz", context)
            metrics, _ = ask(address, name, "/metrics", context)
        except (OSError, http.client.HTTPException, ValueError) as error:
            row(
                "https",
                False,
                f"https://{name} at {address}: {error}",
                "Look at the unit nginx, the firewall, and the certificate's names and issuer.",
            )
        else:
            row("https", True, f"certificate valid for {name}", "")
            parts = {part: state for part, state in ((ready or {}).get("parts") or {}).items() if state.get("remedy")}
            row(
                "ready",
                status == 200 and not parts,
                f"/readyz answers {status}" + "".join(f"; {part}: {state['remedy']}" for part, state in parts.items()),
                "Read journalctl --unit 'loyalty@*' on the server.",
            )
            row(
                "metrics",
                metrics == 404,
                f"/metrics answers {metrics}",
                "It must be closed; run the playbook site.yml.",
            )
        row("redirect", port_is_open(address, 80), "port 80 is closed", "Look at the unit nginx and the firewall.")
    with ThreadPoolExecutor(max(1, len(closed_ports))) as pool:
        for port, is_open in zip(closed_ports, pool.map(lambda p: port_is_open(address, p), closed_ports), strict=True):
            row(
                f"port {port}",
                not is_open,
                f"port {port} of {address} is open to this machine",
                "Run the playbook site.yml with --tags firewall; who may connect is drawn from the inventory.",
            )
    return rows


class ActionModule(ActionBase):  # type: ignore[misc]
    """`look_from_outside: {host, address, name, ca_file, closed_ports, serves}` returns `rows`."""

    TRANSFERS_FILES = False
    _VALID_ARGS = frozenset({"host", "address", "name", "ca_file", "closed_ports", "serves"})

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        args = self._task.args
        rows = look(
            str(args["host"]),
            str(args["address"]),
            str(args["name"]),
            Path(str(args["ca_file"])),
            [int(port) for port in args["closed_ports"]],
            serves=bool(args["serves"]),
        )
        return result | {"changed": False, "rows": rows}
