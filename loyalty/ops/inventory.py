"""A site's inventory as Ansible reads it: groups, variables and where each was set, without asking any host."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from loyalty.ops.ansible import inventories
from loyalty.ops.site import CHECKOUT


class Inventory:
    """The inventories of a site, read once. Raises Refusal if there is no such site."""

    def __init__(self, site: str) -> None:
        self.sources = [CHECKOUT / path for path in inventories(site)]
        os.environ["ANSIBLE_CONFIG"] = str(CHECKOUT / "ansible.cfg")
        # Imported late: it takes longer than everything else together.
        from ansible.inventory.manager import InventoryManager  # type: ignore[import-untyped]
        from ansible.parsing.dataloader import DataLoader  # type: ignore[import-untyped]
        from ansible.vars.manager import VariableManager  # type: ignore[import-untyped]

        self._loader = DataLoader()
        self._inventory = InventoryManager(loader=self._loader, sources=[str(path) for path in self.sources])
        self._manager = VariableManager(loader=self._loader, inventory=self._inventory)

    def groups(self) -> dict[str, list[str]]:
        """Every group with its hosts, in the order of the inventory."""
        return {name: list(hosts) for name, hosts in self._inventory.get_groups_dict().items()}

    def depths(self, host: str) -> dict[str, int]:
        """The groups that a host is in, each with its depth: of two groups, the deeper one's variables win."""
        return {group.name: group.depth for group in self._inventory.get_host(host).get_groups()}

    def raw(self, host: str) -> dict[str, Any]:
        """All variables that the inventory gives a host, as they are written."""
        found: dict[str, Any] = self._manager.get_vars(host=self._inventory.get_host(host))
        return found

    def values(self, host: str, names: Iterable[str]) -> dict[str, Any]:
        """The values of those of the variables `names` that the inventory sets for a host."""
        from ansible.template import Templar  # type: ignore[import-untyped]

        raw = self.raw(host)
        templar = Templar(loader=self._loader, variables=raw)
        return {name: templar.template(raw[name]) for name in names if name in raw}
