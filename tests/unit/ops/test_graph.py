"""The picture of a topology says exactly what the firewall is made from: every edge once, and nothing else."""

from __future__ import annotations

from collections import Counter
from xml.etree import ElementTree

import pytest

from loyalty.ops import graph
from loyalty.ops.errors import Refusal
from loyalty.ops.site import topologies
from loyalty.ops.topology import Edge, Topology, topology

SVG = "{http://www.w3.org/2000/svg}"


def pairs(lines: list[graph.Line]) -> Counter[tuple[str, str, str]]:
    return Counter((source, target, line.port) for line in lines for source, target in line.pairs())


@pytest.mark.parametrize("shape", topologies())
def test_every_edge_appears_once(shape: str) -> None:
    found = topology(shape)
    assert pairs(graph.lines(found.edges)) == Counter((e.source, e.target, e.port) for e in found.edges)
    assert max(pairs(graph.lines(found.edges)).values()) == 1


def test_edges_that_are_no_product_are_drawn_one_by_one() -> None:
    edges = [Edge("a", "b", "x", "1", "tcp", "why"), Edge("c", "d", "x", "1", "tcp", "why")]
    assert [(line.sources, line.targets) for line in graph.lines(edges)] == [(("a",), ("b",)), (("c",), ("d",))]


@pytest.mark.parametrize("shape", topologies())
def test_the_text_fits_a_terminal_and_joins_whom_the_edges_join(shape: str) -> None:
    found = topology(shape)
    rows = graph.text(found).splitlines()
    assert max(map(len, rows)) <= 100
    drawn = graph.lines(found.edges)
    for line, row in zip(drawn, rows[3:], strict=False):
        both = set(line.sources) & set(line.targets)
        assert row.startswith(line.port or line.proto)
        assert row.count("◆") == len(both)
        assert row.count("●") == len(set(line.sources) - both)
        assert row.count("▶") == len(set(line.targets) - both)


@pytest.mark.parametrize("shape", topologies())
def test_the_svg_draws_each_line_with_its_reason(shape: str) -> None:
    found = topology(shape)
    root = ElementTree.fromstring(graph.svg(found))
    drawn = graph.lines(found.edges)
    groups = root.findall(f"{SVG}g")
    assert [group.findtext(f"{SVG}title") for group in groups] == [line.why for line in drawn]
    for group, line in zip(groups, drawn, strict=True):
        marks = len(group.findall(f"{SVG}circle")) + len(group.findall(f"{SVG}path"))
        assert marks == len({*line.sources, *line.targets})
    assert len(root.findall(f"{SVG}rect")) == len(graph.columns(found))


def test_names_cannot_break_the_svg() -> None:
    edges = [Edge("any", "box1", "nginx", "443", "tcp", '<the> & "service"')]
    ElementTree.fromstring(graph.svg(Topology('<"&', {"box1": ["nginx"]}, edges, "")))


def test_a_layout_that_cannot_work_is_refused_with_the_reason(tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    from loyalty.ops import inventory

    (tmp_path / "hosts.yml").write_text(
        "loyalty: {children: {app: {hosts: {box1: }}, nginx: {hosts: {box1: }}, scheduler: {hosts: {box1: }},"
        " redis: {hosts: {box1: }}, storage: {hosts: {box1: }}, mongodb: {hosts: {db1: , db2: }}}}\n"
    )
    (tmp_path / "group_vars").mkdir()
    (tmp_path / "group_vars/all.yml").write_text("site_admin_networks: [192.0.2.0/24]\n")
    monkeypatch.setattr(inventory, "inventories", lambda site: [str(tmp_path / "hosts.yml")])
    with pytest.raises(Refusal) as refusal:
        topology("shop")
    assert "cannot elect a primary" in refusal.value.remedy
