"""A slow, lossy cable for one lab server: every frame that it sends or gets waits, and some are lost.

The server's interface leaves the bridge of its site, and this process carries the frames between the two, through a
device of its own. Nothing in the server knows of it, and all of its traffic is meant. The device is gone with the
process; whoever ends the process puts the interface back.

    python -m loyalty.ops.slow_link INTERFACE BRIDGE DELAY_MS LOSS_PERCENT

The delay is that of one direction. Prints a line when the cable is in place; ends when the server does.
"""

from __future__ import annotations

import errno
import fcntl
import heapq
import os
import random
import selectors
import socket
import struct
import sys
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

from loyalty.ops.process import run

_TUNSETIFF = 0x400454CA
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
_SOL_PACKET, _PACKET_VNET_HDR, _PACKET_OUTGOING = 263, 15, 4
_ETH_P_ALL = 3
_LONGEST_FRAME = 1 << 17
"""A frame and, before it, what the kernel has left to do on it (checksum, segments): so it passes as it is."""

Send = Callable[[bytes], object]


class Cable:
    """Frames under way: each arrives after `delay_s`, unless it is one of the `loss` (0 to 1) that never do."""

    def __init__(self, delay_s: float, loss: float, chance: Callable[[], float] = random.random) -> None:
        self._delay_s = delay_s
        self._loss = loss
        self._chance = chance
        self._order = count()
        self._under_way: list[tuple[float, int, Send, bytes]] = []

    def put(self, now: float, send: Send, frame: bytes) -> None:
        """A frame, and what to do with it at the other end."""
        if self._chance() >= self._loss:
            heapq.heappush(self._under_way, (now + self._delay_s, next(self._order), send, frame))

    def deliver(self, now: float) -> None:
        """Send what has arrived by now, in its order."""
        while self._under_way and self._under_way[0][0] <= now:
            _, _, send, frame = heapq.heappop(self._under_way)
            send(frame)

    def wait_s(self, now: float) -> float | None:
        """How long until the next frame arrives; None if none is under way."""
        return max(0.0, self._under_way[0][0] - now) if self._under_way else None


def carry(interface: str, bridge: str, cable: Cable) -> None:
    """Put the cable between an interface and its bridge, and carry frames. OSError when one of them goes away."""
    tap = os.open("/dev/net/tun", os.O_RDWR)
    asked = struct.pack("16sH22x", b"lab%d", _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR)
    device = fcntl.ioctl(tap, _TUNSETIFF, asked)[:16].rstrip(b"\0").decode()
    server = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
    server.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
    # While it stands alone the interface must not answer for this machine's own addresses.
    Path(f"/proc/sys/net/ipv4/conf/{interface}/arp_ignore").write_text("8\n")
    run(["ip", "link", "set", interface, "nomaster"])
    server.bind((interface, 0))
    run(["ip", "link", "set", device, "master", bridge, "up"])
    print(f"{interface} hangs on {device}", flush=True)
    with selectors.DefaultSelector() as selector:
        selector.register(tap, selectors.EVENT_READ)
        selector.register(server, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select(cable.wait_s(time.monotonic())):
                if key.fd == tap:
                    cable.put(time.monotonic(), _forgiving(server.send), os.read(tap, _LONGEST_FRAME))
                    continue
                frame, source = server.recvfrom(_LONGEST_FRAME)
                if source[2] != _PACKET_OUTGOING:
                    cable.put(time.monotonic(), _forgiving(lambda frame: os.write(tap, frame)), frame)
            cable.deliver(time.monotonic())


def _forgiving(send: Send) -> Send:
    """A full queue loses a frame, as anywhere."""

    def attempt(frame: bytes) -> None:
        try:
            send(frame)
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise

    return attempt


if __name__ == "__main__":
    _, wanted_interface, wanted_bridge, delay_ms, loss_percent = sys.argv
    carry(wanted_interface, wanted_bridge, Cable(float(delay_ms) / 1000, float(loss_percent) / 100))
