"""The server of a molecule scenario: where it is, what its clients trust, and its secrets, which no test may print."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from loyalty.ops.info import read_vault, site_variables
from loyalty.ops.site import CHECKOUT, LAB_DIRECTORY


@dataclass(frozen=True)
class Box:
    """`inventories` are what the playbooks are given: the example, and the lab's overlay of addresses."""

    site: str
    address: str
    domain: str
    ca_file: Path
    inventories: tuple[Path, Path]
    secrets: dict[str, str] = field(repr=False)


def open_box(site: str) -> Box:
    """The lab site `site`, which is installed."""
    variables = site_variables(site)
    directory = Path(str(variables["site_directory"]))
    secrets = {name: value for name, value in read_vault(directory / "vault.yml").items() if name.startswith("vault_")}
    return Box(
        site=site,
        address=str(variables["ansible_host"]),
        domain=str(variables["site_domain"]),
        ca_file=directory / "ca" / "ca.crt",
        inventories=(CHECKOUT / "inventory" / "one-box", LAB_DIRECTORY / "sites" / site / "inventory"),
        secrets=secrets,
    )
