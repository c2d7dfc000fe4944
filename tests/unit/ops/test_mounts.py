"""Reading mountinfo, and never deleting what is not ours."""

from __future__ import annotations

from pathlib import Path

from loyalty.ops.mounts import parse_mountinfo, remove_tree

MOUNTINFO = r"""22 27 0:21 / /proc rw,relatime - proc proc rw
40 27 0:39 / /srv/a\040b/merged rw,relatime shared:1 - overlay overlay rw,lowerdir=/l
"""


def test_mount_points_with_blanks() -> None:
    assert parse_mountinfo(MOUNTINFO) == [Path("/proc"), Path("/srv/a b/merged")]


def test_remove_tree_does_not_follow_links(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").touch()
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "link").symlink_to(outside)
    remove_tree(tree)
    assert not tree.exists()
    assert (outside / "precious").exists()


def test_remove_tree_may_be_repeated(tmp_path: Path) -> None:
    remove_tree(tmp_path / "never-there")
