#!/usr/bin/python
"""Try, from this host, every port of every other host: those that the topology draws, and those that it does not."""

from __future__ import annotations

import socket
import ssl
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: edge_state
short_description: Report which ports of other hosts this host reaches, by name and with TLS
description: Only connects and says goodbye. Names are resolved as the services of this host would.
options:
  edges:
    description: >-
      What to try - C(to) (host), C(port), C(service), C(why), C(tls) and C(drawn) (whether it must be open or closed).
    type: list
    elements: dict
    required: true
  ca_file:
    description: Certificate authority that signed the servers' certificates.
    type: path
    required: true
author: loyalty
"""

RETURN = r"""
edges:
  description: The same list, each with C(open) and C(error).
  type: list
  elements: dict
  returned: always
"""

SECONDS = 3.0


def attempt(edge: dict[str, Any], ca_file: str) -> dict[str, Any]:
    """Connect; where the service speaks TLS and must be reachable, shake hands and check issuer and name."""
    try:
        with socket.create_connection((edge["to"], int(edge["port"])), timeout=SECONDS) as plain:
            if edge["tls"] and edge["drawn"]:
                context = ssl.create_default_context(cafile=ca_file)
                with context.wrap_socket(plain, server_hostname=edge["to"]):
                    pass
    except OSError as error:
        return {**edge, "open": False, "error": str(error)}
    return {**edge, "open": True, "error": ""}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "edges": {"type": "list", "elements": "dict", "required": True},
            "ca_file": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    edges = module.params["edges"]
    with ThreadPoolExecutor(32) as pool:
        found = list(pool.map(lambda edge: attempt(edge, module.params["ca_file"]), edges))
    module.exit_json(changed=False, edges=found)


if __name__ == "__main__":
    main()
