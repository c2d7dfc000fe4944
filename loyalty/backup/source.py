"""Our end of the pipe to a member's `loyalty-backup-source`: the request, the facts, and the tar stream after them."""

from __future__ import annotations

import json
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Literal, NamedTuple

import msgspec

from loyalty.backup.errors import BackupError
from loyalty.backup.manifest import ClusterTime, Seal
from loyalty.backup.settings import Member, Settings, read_secret

Progress = Callable[[int, int], None]
"""Told how many bytes of how many have come."""

_CHUNK = 1 << 20
_MOST_FACTS = 16 << 20


class SourceError(BackupError):
    """A member could not send its copy, or not all of it."""


class Facts(msgspec.Struct, frozen=True):
    """What the member was and held while it was locked."""

    host: str
    role: Literal["primary", "secondary"]
    replica_set: str
    locked_at: str
    top: ClusterTime
    """The last entry of its log."""
    top_sha256: str
    server_version: str
    fcv: str
    counts: dict[str, int]
    seal: Seal | None
    locked_s: float
    bytes: int
    stream_bytes: int
    """Length of the tar stream after the facts."""


class Copy(NamedTuple):
    """A copy that is being sent."""

    facts: Facts
    chunks: Iterator[bytes]
    """The tar stream. SourceError when it does not come to its end."""


@contextmanager
def physical(settings: Settings, member: Member, *, progress: Progress) -> Iterator[Copy]:
    """Have the member send a copy of its data folder. SourceError at once when it does not begin."""
    limits = settings.limits
    request = {
        "do": "physical",
        "primary_lock_seconds_max": limits.primary_lock_seconds,
        "secondary_lock_seconds_max": limits.secondary_lock_seconds,
        "megabytes_per_second": limits.beside_application_megabytes_per_second
        if member.beside_application
        else limits.megabytes_per_second,
        "database": settings.database.name,
    }
    if settings.database.user is not None and settings.database.password_file is not None:
        request |= {"user": settings.database.user, "password": read_secret(settings.database.password_file)}
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            _command(settings, member), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
        )
        try:
            if process.stdin is None or process.stdout is None:
                raise AssertionError("it was started with pipes")
            stream = process.stdout
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
            facts = _read_facts(stream)
            if facts is None:
                raise _failed(member, process, errors)
            yield Copy(facts, _chunks(stream, facts.stream_bytes, progress, lambda: _end(member, process, errors)))
        except BrokenPipeError:
            raise _failed(member, process, errors) from None
        finally:
            for pipe in (process.stdout, process.stdin):
                if pipe is not None:
                    pipe.close()  # which ends the program at the other end, if it still sends
            process.wait()


def _command(settings: Settings, member: Member) -> list[str]:
    if member.ssh is None:
        return list(member.command)
    options = {
        "BatchMode": "yes",
        "IdentitiesOnly": "yes",
        "StrictHostKeyChecking": "yes",
        "UserKnownHostsFile": str(settings.ssh.known_hosts_file),
        "ConnectTimeout": "10",
        # A member that hangs or whose cable is pulled is noticed after a minute.
        "ServerAliveInterval": "15",
        "ServerAliveCountMax": "4",
    }
    # The key's forced command is what runs there, whatever we ask for.
    return [
        *("ssh", "-F", "none", "-T", "-a", "-x", "-i", str(settings.ssh.key_file)),
        *(f"-o{name}={value}" for name, value in options.items()),
        *("-p", str(member.ssh_port)),
        member.ssh,
    ]


def _read_facts(stream: IO[bytes]) -> Facts | None:
    """The first member of the tar stream; None when the stream ends before."""
    block = stream.read(tarfile.BLOCKSIZE)
    if len(block) < tarfile.BLOCKSIZE:
        return None
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
        if header.name != "_facts.json" or not 0 < header.size <= _MOST_FACTS:
            raise ValueError(header.name)
        text = stream.read(header.size)
        stream.read(-header.size % tarfile.BLOCKSIZE)
        return msgspec.json.decode(text, type=Facts)
    except (tarfile.HeaderError, msgspec.MsgspecError, ValueError):
        raise SourceError(
            "The member's program answered something else than a copy.",
            "Install the same version on the members and on this host: run the playbook site.yml.",
        ) from None


def _chunks(stream: IO[bytes], length: int, progress: Progress, end: Callable[[], None]) -> Iterator[bytes]:
    done = 0
    while chunk := stream.read(_CHUNK):
        done += len(chunk)
        progress(done, length)
        yield chunk
    end()
    if done != length:
        raise SourceError(
            f"The copy has {done} bytes instead of {length}.", "Try again; if it happens again, check the network."
        )


def _end(member: Member, process: subprocess.Popen[bytes], errors: IO[bytes]) -> None:
    if process.wait() != 0:
        raise _failed(member, process, errors)


def _failed(member: Member, process: subprocess.Popen[bytes], errors: IO[bytes]) -> SourceError:
    code = process.wait()
    errors.seek(0)
    lines = errors.read().decode(errors="replace").strip().splitlines()
    reason = lines[-1] if lines else f"it ended with {code} and said nothing"
    return SourceError(
        f"{member.address} sends no copy: {reason}",
        "What the member says stands in its journal: journalctl -t sshd -t sudo.",
    )


def discard(done: int, whole: int) -> None:
    """A progress that nobody wants to see."""
    del done, whole
