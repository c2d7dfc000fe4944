"""What a client needs to call a site: its address, the certificate to trust, a key."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from loyalty.ops.errors import Failure
from loyalty.ops.inventory import Inventory
from loyalty.ops.site import Site


@dataclass(frozen=True)
class Access:
    """Where a site answers and how to be let in. Handle it as what it is: ``api_key`` may do everything."""

    site: str
    url: str
    console_url: str
    docs_url: str
    ca_file: str
    api_key: str
    vault_file: str

    def as_json(self) -> dict[str, str]:
        """Return the fields for a script."""
        return asdict(self)


def access(site: str) -> Access:
    """Read the inventory and open the site's vault. Raises Failure if the site is not installed yet."""
    variables = site_variables(site)
    directory = Path(str(variables["site_directory"]))
    vault = directory / "vault.yml"
    lab = Site(site).state_file.exists()
    # The certificate of a lab server names its address, so nothing has to be put into a name server or /etc/hosts.
    name = (variables.get("site_virtual_address") or variables["ansible_host"]) if lab else variables["site_domain"]
    url = f"https://{name}"
    key = read_vault(vault).get("vault_app_api_key")
    if not key:
        raise Failure(
            f"The site {site} is not installed yet: {vault} has no API key.",
            f"./appliance up --site {site}" if lab else f"./appliance apply --site {site}",
        )
    return Access(
        site=site,
        url=url,
        console_url=f"{url}/console",
        docs_url=f"{url}/docs",
        ca_file=str(directory / "ca" / "ca.crt"),
        api_key=key,
        vault_file=str(vault),
    )


def site_variables(site: str) -> dict[str, Any]:
    """Return the variables, templated, that Ansible has for the host which faces the clients of the site."""
    inventory = Inventory(site)
    faces = inventory.groups().get("nginx")
    if not faces:
        raise Failure(f"The inventory of {site} has no host in the group nginx.", "Add one: it is what clients reach.")
    wanted = ("site_name", "site_domain", "site_directory", "site_virtual_address", "ansible_host")
    return {"ansible_host": faces[0], "host": faces[0], **inventory.values(faces[0], wanted)}


def read_vault(vault: Path) -> dict[str, str]:
    """Return the secrets in an encrypted vault, opened with the password file beside it; nothing if there is none."""
    password_file = vault.with_name(".vault_password")
    if not vault.exists():
        return {}
    from ansible.errors import AnsibleError  # type: ignore[import-untyped]
    from ansible.parsing.vault import VaultLib, VaultSecret  # type: ignore[import-untyped]

    try:
        secret = VaultSecret(password_file.read_bytes().strip())
        text = VaultLib([("default", secret)]).decrypt(vault.read_bytes())
    except (AnsibleError, OSError) as error:
        raise Failure(
            f"{vault} cannot be opened with {password_file}: {error}",
            "Run as the user who installed the site, or restore both files from the same backup.",
        ) from None
    return {str(name): str(value) for name, value in (yaml.safe_load(text) or {}).items()}
