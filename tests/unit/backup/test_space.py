"""On which disks folders lie, and when a target will be full."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loyalty.backup.space import Disks, Forecast, Sample, forecast, measure, parse_mounts

GB = 1_000_000_000
NOW = datetime(2026, 11, 28, tzinfo=timezone.utc)


class System:
    """A /sys with the block devices of a machine."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "dev" / "block").mkdir(parents=True)
        (root / "class" / "block").mkdir(parents=True)

    def device(self, path: str, number: str, *, slaves: tuple[str, ...] = ()) -> None:
        """A block device, a partition if its name stands below another; made of `slaves`, paths of others."""
        folder = self.root / "devices" / path
        (folder / "slaves").mkdir(parents=True)
        (folder / "dev").write_text(f"{number}\n")
        if "/" in path:
            (folder / "partition").write_text("1\n")
        (self.root / "dev" / "block" / number).symlink_to(folder)
        (self.root / "class" / "block" / Path(path).name).symlink_to(folder)
        for slave in slaves:
            (folder / "slaves" / Path(slave).name).symlink_to(self.root / "devices" / slave)


def test_partitions_volumes_encryption_and_arrays_lead_to_their_disks(tmp_path: Path) -> None:
    system = System(tmp_path)
    for number, disk in enumerate(("sda", "sdb", "nvme0n1")):
        system.device(disk, f"8:{16 * number}")
    system.device("sda/sda1", "8:1")
    system.device("sda/sda2", "8:2")
    system.device("nvme0n1/nvme0n1p1", "259:1")
    system.device("dm-0", "253:0", slaves=("sda/sda2",))  # LUKS
    system.device("dm-1", "253:1", slaves=("dm-0",))  # a volume in it
    system.device("md0", "9:0", slaves=("sda/sda1", "sdb"))
    disks = Disks(sys=tmp_path, mountinfo="")
    found = {number: set(disks.of_device(number)) for number in ("8:1", "259:1", "253:1", "9:0", "8:16", "42:7")}
    assert found == {
        "8:1": {"sda"},
        "259:1": {"nvme0n1"},
        "253:1": {"sda"},
        "9:0": {"sda", "sdb"},
        "8:16": {"sdb"},
        "42:7": {"42:7"},
    }


@pytest.mark.parametrize(
    ("kind", "source", "expected"),
    [
        ("nfs4", "nas.example:/volume1/backup", "server nas.example"),
        ("nfs", "[2001:db8::1]:/export", "server [2001:db8::1]"),
        ("cifs", "//nas/share", "server nas"),
        ("fuse.sshfs", "keeper@192.0.2.7:/srv", "server 192.0.2.7"),
        ("fuse.glusterfs", "db1:loyalty", "server db1"),
        ("zfs", "tank/backup", "pool tank"),
    ],
)
def test_a_share_counts_as_its_server(tmp_path: Path, kind: str, source: str, expected: str) -> None:
    """The folder is in memory, whose device number the mount of a share then claims."""
    folder = Path("/dev/shm")
    number = f"0:{folder.stat().st_dev & 0xFF}"
    assert Disks(mountinfo=f"36 25 {number} / /mnt rw - {kind} {source} rw\n").under(folder) == {expected}


@pytest.mark.parametrize(("source", "disk"), [("/dev/sda2", "sda"), ("/dev/mapper/pool-home", "sdb")])
def test_a_file_system_with_numbers_of_its_own_leads_to_its_disk(tmp_path: Path, source: str, disk: str) -> None:
    """As btrfs has one for each subvolume. No file of /dev is looked at: a sandboxed unit has none."""
    system = System(tmp_path)
    system.device("sda", "8:0")
    system.device("sda/sda2", "8:2")
    system.device("sdb", "8:16")
    system.device("dm-0", "253:0", slaves=("sdb",))
    (tmp_path / "devices" / "dm-0" / "dm").mkdir()
    (tmp_path / "devices" / "dm-0" / "dm" / "name").write_text("pool-home\n")
    folder = Path("/dev/shm")
    number = f"0:{folder.stat().st_dev & 0xFF}"
    mountinfo = f"36 25 {number} /@home /home rw - btrfs {source} rw\n"
    assert Disks(sys=tmp_path, mountinfo=mountinfo).under(folder) == {disk}


def test_blanks_in_a_mount_point() -> None:
    line = r"36 25 8:1 / /mnt/my\040disk rw,noatime shared:1 - ext4 /dev/sda1 rw"
    assert [(mount.point, mount.type, mount.source) for mount in parse_mounts(line)] == [
        (Path("/mnt/my disk"), "ext4", "/dev/sda1")
    ]


@pytest.fixture
def partitions(tmp_path: Path) -> Iterator[list[Path]]:
    """Two mounted partitions of one disk, which is a file."""
    image = tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate(128 << 20)
    command = ["losetup", "--find", "--show", "--partscan", str(image)]
    loop = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    mounted: list[Path] = []
    try:
        for number in (1, 2):
            # Told to the kernel rather than written into a table, whose form the kernel may not know.
            subprocess.run(["addpart", loop, str(number), str(number * 49152), "49152"], check=True)
            subprocess.run(["mkfs.ext4", "-q", f"{loop}p{number}"], check=True)
            point = tmp_path / f"part{number}"
            point.mkdir()
            subprocess.run(["mount", f"{loop}p{number}", point], check=True)
            mounted.append(point)
        yield mounted
    finally:
        for point in mounted:
            subprocess.run(["umount", point], check=True)
        subprocess.run(["losetup", "--detach", loop], check=True)


def test_two_partitions_of_a_disk_are_one_disk(partitions: list[Path], tmp_path: Path) -> None:
    first, second = partitions
    assert first.stat().st_dev != second.stat().st_dev
    disks = Disks()
    assert set(disks.shared(first / "not" / "yet", [second, Path("/dev/shm")])) == {second}
    # And the disk of theirs is a file on the disk of this folder.
    assert disks.under(first) == disks.under(tmp_path)


def samples(*used: float) -> list[Sample]:
    """One a day, in GB of 100."""
    return [Sample(NOW + timedelta(days=day), int(gb * GB), 100 * GB) for day, gb in enumerate(used)]


def test_steady_growth_is_carried_on() -> None:
    assert forecast(samples(10, 12, 14, 16)) == Forecast(84 * GB, 2 * GB, NOW + timedelta(days=3 + 42))


def test_one_large_run_or_one_that_let_much_go_does_not_decide() -> None:
    grown = forecast(samples(10, 12, 14, 60, 18, 20, 22, 24, 26))
    assert grown is not None
    assert grown.growth_per_day == pytest.approx(2 * GB)


@pytest.mark.parametrize("used", [[10, 10, 10], [30, 20, 10]])
def test_what_does_not_grow_is_never_full(used: list[float]) -> None:
    found = forecast(samples(*used))
    assert found is not None
    assert found.full_at is None


def test_growth_of_long_ago_does_not_count() -> None:
    found = forecast(samples(*range(40), *[39] * 20))
    assert found is not None
    assert found.full_at is None


def test_too_little_is_known() -> None:
    assert forecast([]) is None
    assert forecast(samples(10)) == Forecast(90 * GB, 0, None)


@given(st.lists(st.tuples(st.integers(0, 10**7), st.integers(0, 10**13)), min_size=1, max_size=20))
def test_any_samples_give_an_answer(drawn: list[tuple[int, int]]) -> None:
    drawn.sort()
    found = forecast([Sample(NOW + timedelta(seconds=at), used, 10**13) for at, used in drawn])
    assert found is not None
    assert found.full_at is None or found.full_at >= NOW + timedelta(seconds=drawn[-1][0])


def test_measured_room_is_what_the_file_system_says(partitions: list[Path]) -> None:
    before = measure(partitions[0], now=NOW)
    (partitions[0] / "file").write_bytes(bytes(5 << 20))
    subprocess.run(["sync", "--file-system", partitions[0]], check=True)
    after = measure(partitions[0], now=NOW)
    assert after.size == before.size
    assert 5 << 20 <= after.used - before.used <= 6 << 20
