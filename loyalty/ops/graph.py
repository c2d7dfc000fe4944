"""Draw a topology: a column for each machine, a line for each service with who connects to whom.

Text for a terminal and SVG for a document come from the same lines, and these from the edges that feed the firewall.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

from loyalty.ops.topology import Edge, Topology

_ABOVE = ("any", "admin")
_NAMES = {"any": "clients", "admin": "admin"}
_SERVICES = {"scheduler": "jobs", "mongodb": "database", "storage": "files", "monitoring": "watch"}
"""What services are called in `status`, where it is not by their group."""


@dataclass(frozen=True)
class Line:
    """A service and the machines that it joins: each of `sources` connects to each of `targets` (but not to itself)."""

    service: str
    port: str
    proto: str
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    why: str

    def pairs(self) -> Iterator[tuple[str, str]]:
        """The edges that the line stands for."""
        return ((source, target) for source in self.sources for target in self.targets if source != target)


def lines(edges: Iterable[Edge]) -> list[Line]:
    """The edges as lines: as few as say exactly the same."""
    by_service: dict[tuple[str, str, str], list[Edge]] = {}
    for edge in edges:
        by_service.setdefault((edge.service, edge.port, edge.proto), []).append(edge)
    found = []
    for (service, port, proto), drawn in by_service.items():
        line = _line(service, port, proto, drawn)
        if sorted(line.pairs()) == sorted((edge.source, edge.target) for edge in drawn):
            found.append(line)
        else:
            for target in dict.fromkeys(edge.target for edge in drawn):
                found.append(_line(service, port, proto, [edge for edge in drawn if edge.target == target]))
    return found


def _line(service: str, port: str, proto: str, edges: list[Edge]) -> Line:
    return Line(
        service,
        port,
        proto,
        tuple(dict.fromkeys(edge.source for edge in edges)),
        tuple(dict.fromkeys(edge.target for edge in edges)),
        "; ".join(dict.fromkeys(reason for edge in edges for reason in edge.why.split("; "))),
    )


def columns(topology: Topology) -> list[str]:
    """Who is in the picture: those outside, then the hosts in the order of the inventory."""
    sources = {edge.source for edge in topology.edges}
    return [name for name in _ABOVE if name in sources] + list(topology.hosts)


def text(topology: Topology) -> str:
    """The picture for a terminal."""
    names = columns(topology)
    drawn = lines(topology.edges)
    first = max((len(_label(line)) for line in drawn), default=0) + 2
    width = max(len(_NAMES.get(name, name)) for name in names) + 2
    head = " " * first + "".join(f"{_NAMES.get(name, name):^{width}}" for name in names)
    rows = [f"Site {topology.site}: {_size(topology)}", "", head.rstrip()]
    rows += [f"{_label(line):<{first}}{_row(line, names, width)}".rstrip() for line in drawn]
    rows += ["", "● connects   ▶ is connected to   ◆ both; what is not drawn is closed", ""]
    wide = max(map(len, topology.hosts))
    rows += [f"{name:<{wide}}  {' '.join(map(_service, services))}" for name, services in topology.hosts.items()]
    return "\n".join(rows)


def _row(line: Line, names: list[str], width: int) -> str:
    places = [index for index, name in enumerate(names) if name in line.sources or name in line.targets]
    cells = []
    for index, name in enumerate(names):
        before, after = (width - 1) // 2, width - 1 - (width - 1) // 2
        left = "─" if places[0] < index <= places[-1] else " "
        right = "─" if places[0] <= index < places[-1] else " "
        sign = {(True, False): "●", (False, True): "▶", (True, True): "◆"}.get(
            (name in line.sources, name in line.targets), left if left == right else " "
        )
        cells.append(left * before + sign + right * after)
    return "".join(cells)


def _label(line: Line) -> str:
    return f"{line.port or line.proto:<11} {_service(line.service)}"


def _service(name: str) -> str:
    return _SERVICES.get(name, name.replace("_", " "))


def _size(topology: Topology) -> str:
    hosts, edges = len(topology.hosts), len(topology.edges)
    said = f"{hosts} host{'s' if hosts > 1 else ''}, {edges} connections"
    return said + (f", floating address {topology.virtual_address}" if topology.virtual_address else "")


_LEFT, _COLUMN, _TOP, _LINE = 220, 132, 64, 34
_COLOURS = (
    "#2563eb",
    "#0d9488",
    "#d97706",
    "#9333ea",
    "#dc2626",
    "#4d7c0f",
    "#0891b2",
    "#be185d",
    "#475569",
    "#a16207",
)
_STYLE = """
  svg { font: 13px system-ui, -apple-system, "Segoe UI", sans-serif; background: #fff; color: #1e293b }
  text { fill: currentColor } .name { font-weight: 600; font-size: 14px } .quiet { fill: #64748b; font-size: 12px }
  .host { fill: #f1f5f9; stroke: #cbd5e1 } .life { stroke: #cbd5e1; stroke-dasharray: 2 5 }
  @media (prefers-color-scheme: dark) {
    svg { background: #0f172a; color: #e2e8f0 } .host { fill: #1e293b; stroke: #475569 } .quiet { fill: #94a3b8 }
    .life { stroke: #475569 }
  }
"""


def svg(topology: Topology) -> str:
    """The picture for a document: a file of its own, readable on light and on dark."""
    names = columns(topology)
    drawn = lines(topology.edges)
    places = {name: _LEFT + _COLUMN * index + _COLUMN // 2 for index, name in enumerate(names)}
    box = 34 + 17 * max(map(len, topology.hosts.values()))
    first = _TOP + box + 40
    width, height = _LEFT + _COLUMN * len(names) + 20, first + _LINE * len(drawn) + 44
    title = f"{topology.site}: {_size(topology)}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label={quoteattr(title)}>',
        f"<title>{escape(title)}</title>",
        f"<style>{_STYLE}</style>",
        f'<text class="name" x="20" y="34">{escape(topology.site)}</text>',
        f'<text class="quiet" x="20" y="54">{escape(_size(topology))}</text>',
    ]
    for name, x in places.items():
        parts.append(f'<line class="life" x1="{x}" x2="{x}" y1="{_TOP + box}" y2="{height - 44}"/>')
        parts += _box(_NAMES.get(name, name), topology.hosts.get(name, []), x, box)
    for number, line in enumerate(drawn):
        parts += _drawn(line, places, first + _LINE * number, _COLOURS[number % len(_COLOURS)])
    parts.append(
        f'<text class="quiet" x="20" y="{height - 14}">● connects · ▼ is connected to · ◆ both · what is not drawn is '
        "closed</text>"
    )
    return "\n".join([*parts, "</svg>", ""])


def _box(name: str, services: list[str], x: int, height: int) -> Iterator[str]:
    half = _COLUMN // 2 - 8
    yield f'<rect class="host" x="{x - half}" y="{_TOP}" width="{2 * half}" height="{height}" rx="8"/>'
    yield f'<text class="name" x="{x}" y="{_TOP + 22}" text-anchor="middle">{escape(name)}</text>'
    for number, service in enumerate(services):
        y = _TOP + 41 + 17 * number
        yield f'<text class="quiet" x="{x}" y="{y}" text-anchor="middle">{escape(_service(service))}</text>'


def _drawn(line: Line, places: dict[str, int], y: int, colour: str) -> Iterator[str]:
    joined = [x for name, x in places.items() if name in line.sources or name in line.targets]
    yield f'<g fill="{colour}" stroke="{colour}"><title>{escape(line.why)}</title>'
    yield f'<text x="20" y="{y + 4}" stroke="none">{escape(_service(line.service))}</text>'
    yield f'<text x="{_LEFT - 18}" y="{y + 4}" stroke="none" text-anchor="end">{line.port or line.proto}</text>'
    yield f'<line x1="{min(joined)}" x2="{max(joined)}" y1="{y}" y2="{y}" stroke-width="2"/>'
    for name, x in places.items():
        if name in line.sources and name in line.targets:
            yield f'<path d="M{x} {y - 8}L{x + 8} {y}L{x} {y + 8}L{x - 8} {y}Z"/>'
        elif name in line.targets:
            yield f'<path d="M{x - 8} {y - 6}L{x + 8} {y - 6}L{x} {y + 8}Z"/>'
        elif name in line.sources:
            yield f'<circle cx="{x}" cy="{y}" r="6"/>'
    yield "</g>"
