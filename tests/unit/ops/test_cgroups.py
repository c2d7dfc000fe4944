"""Where a server's control groups are, in the layouts that systems have."""

from __future__ import annotations

from pathlib import Path

from loyalty.ops.cgroups import own_groups, remove, weigh

HYBRID_MOUNTS = """\
tmpfs /sys/fs/cgroup tmpfs rw,relatime,mode=755 0 0
cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,relatime,cpu,cpuacct 0 0
cgroup /sys/fs/cgroup/cpuset cgroup rw,relatime,cpuset 0 0
cgroup /sys/fs/cgroup/memory cgroup rw,relatime,memory 0 0
cgroup /sys/fs/cgroup/systemd cgroup rw,relatime,name=systemd 0 0
cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0
"""
HYBRID_SELF = """\
9:name=systemd:/
4:memory:/jobs/17
3:cpuset:/
2:cpu,cpuacct:/user.slice
0::/
"""


def test_hybrid_has_one_in_each_hierarchy_below_the_callers_own() -> None:
    assert own_groups(HYBRID_SELF, HYBRID_MOUNTS, "lab-x") == [
        Path("/sys/fs/cgroup/systemd/lab-x"),
        Path("/sys/fs/cgroup/memory/jobs/17/lab-x"),
        Path("/sys/fs/cgroup/cpu,cpuacct/user.slice/lab-x"),
        Path("/sys/fs/cgroup/unified/lab-x"),
    ]


def test_version_2_alone_has_one_at_the_top() -> None:
    mounts = "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid,nodev,noexec,relatime 0 0\n"
    own = "0::/user.slice/user-0.slice/session-3.scope\n"
    assert own_groups(own, mounts, "lab-x") == [Path("/sys/fs/cgroup/lab-x")]


def test_a_hierarchy_that_is_not_mounted_is_left_out() -> None:
    assert own_groups("5:devices:/\n1:memory:/\n", HYBRID_MOUNTS, "lab-x") == [Path("/sys/fs/cgroup/memory/lab-x")]


def test_no_control_groups_at_all() -> None:
    assert own_groups("", "proc /proc proc rw 0 0\n", "lab-x") == []


def test_remove_takes_the_groups_below_too_and_may_be_repeated(tmp_path: Path) -> None:
    group = tmp_path / "lab-x"
    (group / "system.slice/nginx.service").mkdir(parents=True)
    (group / "init.scope").mkdir()
    assert remove([group]) == []
    assert not group.exists()
    assert remove([group]) == []


def test_remove_reports_what_is_still_in_use(tmp_path: Path) -> None:
    group = tmp_path / "lab-x"
    group.mkdir()
    (group / "a-process").touch()  # rmdir refuses, as the kernel does for a group with processes
    assert remove([group], patience_s=0) == [group]


def test_a_group_yields_as_who_started_it_does(tmp_path: Path) -> None:
    """A process of niceness 5 has 335 of the usual 1024, sched(7). A file that is missing is not made."""
    (tmp_path / "cpu.shares").write_text("1024")
    weigh(tmp_path, niceness=5)
    assert abs(int((tmp_path / "cpu.shares").read_text()) - 335) < 2
    assert [file.name for file in tmp_path.iterdir()] == ["cpu.shares"]
    (tmp_path / "cpu.weight").write_text("1")
    weigh(tmp_path, niceness=0)
    assert (tmp_path / "cpu.weight").read_text() == "100"
