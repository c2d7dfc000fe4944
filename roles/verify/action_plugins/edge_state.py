"""Tell the module `edge_state` what to try from a host: what the topology draws from it, and what it must not reach."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ansible.plugins.action import ActionBase

# Services whose connections between hosts begin with TLS, with a certificate for the host's name.
TLS = ("mongodb", "redis", "sentinel")


def probes(host: str, hosts: Iterable[str], edges: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Every port that some host may connect to, on every other host: `drawn` where it is this host that may.

    What is open to all clients, ranges of ports and protocols without ports are not tried, nor SSH where it is not
    drawn: the operator's networks may use it, and this host may be in one of them.
    """
    inner = [edge for edge in edges if edge["from"] in hosts and str(edge["port"]).isdigit() and int(edge["port"])]
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for edge in inner:
        if edge["to"] != host and edge["service"] != "ssh":
            found.setdefault((edge["to"], int(edge["port"])), _probe(edge, drawn=False))
    for edge in inner:
        if edge["from"] == host:
            found[edge["to"], int(edge["port"])] = _probe(edge, drawn=True)
    return list(found.values())


def _probe(edge: Mapping[str, Any], *, drawn: bool) -> dict[str, Any]:
    return {
        "to": edge["to"],
        "port": int(edge["port"]),
        "service": edge["service"],
        "why": edge["why"] if drawn else "",
        "drawn": drawn,
        "tls": edge["service"] in TLS,
    }


class ActionModule(ActionBase):  # type: ignore[misc]
    """`edge_state: {host, hosts, edges, ca_file}` returns `edges`, as the module of the same name tried them."""

    TRANSFERS_FILES = False
    _VALID_ARGS = frozenset({"host", "hosts", "edges", "ca_file"})

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        args = self._task.args
        tried = {"edges": probes(str(args["host"]), list(args["hosts"]), args["edges"]), "ca_file": args["ca_file"]}
        return result | dict(self._execute_module("edge_state", module_args=tried, task_vars=task_vars))
