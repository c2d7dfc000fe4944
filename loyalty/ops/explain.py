"""Explain a variable: what it means, its default, its value on each host, and the file and line that set it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from loyalty.ops.errors import Refusal
from loyalty.ops.inventory import Inventory
from loyalty.ops.site import CHECKOUT

_SECRET = re.compile("password|passphrase|secret|^vault_")
_ENDINGS = ("", ".yml", ".yaml", ".json")


@dataclass(frozen=True)
class Place:
    """A line that sets a variable. Of several, the one with the highest `rank` wins, as Ansible merges them."""

    path: Path
    line: int
    rank: tuple[int, int, int, str]

    def __str__(self) -> str:
        path = self.path.relative_to(CHECKOUT) if self.path.is_relative_to(CHECKOUT) else self.path
        return f"{path}:{self.line}"


@dataclass(frozen=True)
class Explanation:
    """`value` and `place` (and places that it overrides) of each host; hosts where the default holds have no place."""

    name: str
    meaning: str
    kind: str
    choices: list[Any]
    default: Any
    default_place: str
    roles: list[str]
    hosts: dict[str, dict[str, Any]] = field(default_factory=dict)


def explain(name: str, site: str) -> Explanation:
    """Explain the variable `name` on the hosts of a site. Raises Refusal for secrets and for what no role knows."""
    if _SECRET.search(name):
        raise Refusal(f"{name} is a secret: it is not shown.", "ansible-vault view vault.yml in the site's folder.")
    inventory = Inventory(site)
    options = {role: _options(role) for role in sorted((CHECKOUT / "roles").iterdir()) if role.is_dir()}
    described = {role.name: found[name] for role, found in options.items() if name in found}
    names = inventory.groups().get("loyalty", [])
    if not described and not any(name in inventory.raw(host) for host in names):
        known = sorted({variable for found in options.values() for variable in found})
        close = difflib.get_close_matches(name, known, 3)
        raise Refusal(
            f"No role knows a variable {name}.",
            f"Did you mean {' or '.join(close)}?" if close else "grep -r description: roles/*/meta lists all of them.",
        )
    default, default_place = _default(name)
    spec: dict[str, Any] = next(iter(described.values()), {})
    if not default_place and "default" in spec:
        # What the topology reads in the inventory itself, where roles bring no defaults.
        default, default_place = spec["default"], f"roles/{next(iter(described))}/meta/argument_specs.yml"
    return Explanation(
        name=name,
        meaning=_sentence(spec.get("description", "")),
        kind=str(spec.get("type", "str")) if spec else "",
        choices=list(spec.get("choices", ())),
        default=default,
        default_place=default_place,
        roles=sorted(described),
        hosts={host: _on_host(inventory, host, name) for host in names},
    )


def _on_host(inventory: Inventory, host: str, name: str) -> dict[str, Any]:
    places = sorted(places_of(inventory, host, name), key=lambda place: place.rank)
    if not places:
        return {}
    values = inventory.values(host, [name])
    return {
        "value": values.get(name),
        "place": str(places[-1]),
        "overrides": [str(place) for place in reversed(places[:-1])],
    }


def places_of(inventory: Inventory, host: str, name: str) -> Iterator[Place]:
    """Every line of the inventories that sets the variable for the host."""
    depths = inventory.depths(host)
    for number, source in enumerate(inventory.sources):
        folder = source if source.is_dir() else source.parent
        files = [source] if source.is_file() else [folder / f"hosts{ending}" for ending in (".yml", ".yaml")]
        for file in files:
            if file.is_file():
                yield from _in_hosts_file(file, number, host, name, depths)
        for group, depth in depths.items():
            for file in _variable_files(folder / "group_vars", group):
                yield from _in_file(file, name, (2 if group == "all" else 3, depth, number, file.name))
        for file in _variable_files(folder / "host_vars", host):
            yield from _in_file(file, name, (5, 0, number, file.name))


def _in_hosts_file(file: Path, number: int, host: str, name: str, depths: dict[str, int]) -> Iterator[Place]:
    def walk(group: str, node: yaml.Node) -> Iterator[Place]:
        for key, value in _pairs(node):
            if key.value == "vars" and group in depths:
                yield from _in_node(file, value, name, (0 if group == "all" else 1, depths[group], number, file.name))
            elif key.value == "hosts":
                for found, variables in _pairs(value):
                    if found.value == host:
                        yield from _in_node(file, variables, name, (4, depths.get(group, 0), number, file.name))
            elif key.value == "children":
                for child, content in _pairs(value):
                    yield from walk(str(child.value), content)

    for group, content in _pairs(yaml.compose(file.read_text(encoding="utf-8"))):
        yield from walk(str(group.value), content)


def _in_file(file: Path, name: str, rank: tuple[int, int, int, str]) -> Iterator[Place]:
    return _in_node(file, yaml.compose(file.read_text(encoding="utf-8")), name, rank)


def _in_node(file: Path, node: yaml.Node | None, name: str, rank: tuple[int, int, int, str]) -> Iterator[Place]:
    for key, _ in _pairs(node):
        if key.value == name:
            yield Place(file, key.start_mark.line + 1, rank)


def _pairs(node: yaml.Node | None) -> Iterable[tuple[yaml.Node, yaml.Node]]:
    return node.value if isinstance(node, yaml.MappingNode) else ()


def _variable_files(folder: Path, name: str) -> list[Path]:
    """Files with the variables of a group or host: NAME, NAME.yml, or all in a folder NAME, in Ansible's order."""
    files = [file for ending in _ENDINGS if (file := folder / f"{name}{ending}").is_file()]
    inside = sorted((folder / name).rglob("*")) if (folder / name).is_dir() else []
    return files + [file for file in inside if file.is_file() and file.suffix in _ENDINGS]


def _options(role: Path) -> dict[str, Any]:
    file = role / "meta" / "argument_specs.yml"
    if not file.exists():
        return {}
    specs = yaml.safe_load(file.read_text(encoding="utf-8"))["argument_specs"]
    return {name: option for spec in specs.values() for name, option in (spec.get("options") or {}).items()}


def _default(name: str) -> tuple[Any, str]:
    """The tested default, as it is written, and where it stands; empty where a site has to decide."""
    for file in sorted((CHECKOUT / "roles").glob("*/defaults/main.yml")):
        for place in _in_file(file, name, (0, 0, 0, "")):
            return yaml.safe_load(file.read_text(encoding="utf-8"))[name], str(place)
    return None, ""


def _sentence(description: Any) -> str:
    """A description of an argument spec as plain text."""
    joined = " ".join(description) if isinstance(description, list) else str(description)
    return re.sub(r"[A-Z]\(([^)]*)\)", r"\1", joined).strip()


def lines(found: Explanation) -> Iterator[str]:
    """The explanation for people."""
    yield found.name + (f": {found.meaning}" if found.meaning else "")
    if found.roles:
        kind = f"{found.kind}, one of {', '.join(map(str, found.choices))}" if found.choices else found.kind
        yield f"  {kind}; read by {', '.join(found.roles)}"
    if found.default_place:
        yield f"  default: {_shown(found.default)}  ({found.default_place})"
    else:
        yield "  no default in a role"
    by_answer: dict[tuple[str, str], list[str]] = {}
    for host, answer in found.hosts.items():
        said = f"{_shown(answer['value'])}  ({answer['place']})" if answer else "the default"
        by_answer.setdefault((said, "".join(f"\n    overrides {p}" for p in answer.get("overrides", ()))), []).append(
            host
        )
    for (said, overrides), hosts in by_answer.items():
        yield f"  {', '.join(hosts)}: {said}{overrides}"


def _shown(value: Any) -> str:
    return '""' if value == "" else str(value)
