"""What a file is, as a document and on the wire, and how its type is told."""

from __future__ import annotations

import codecs
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import filetype  # type: ignore[import-untyped]
from pydantic import Field

from loyalty.infra.http.model import Out, Query, Timestamp
from loyalty.infra.problems import Problem

UNKNOWN_TYPE: Final = "application/octet-stream"

SHOWN_INLINE: Final = frozenset(
    {"application/json", "image/gif", "image/jpeg", "image/png", "image/webp", "text/csv", "text/plain"}
)
"""What a browser may show from our address: nothing that can carry a script. The rest is downloaded."""

_TEXT_TYPES: Final = frozenset({"application/json", "text/csv", "text/plain"})
_CONTROLS: Final = frozenset(range(32)) - {9, 10, 12, 13} | {127}


@dataclass(frozen=True, slots=True)
class File:
    """A file of a program. Several may share one content."""

    id: str
    program: str
    sha256: str
    size: int
    content_type: str
    name: str
    created_at: datetime

    def to_document(self) -> dict[str, Any]:
        """The form that is stored."""
        return {
            "_id": self.id,
            "program": self.program,
            "sha256": self.sha256,
            "size": self.size,
            "content_type": self.content_type,
            "name": self.name,
            "created_at": self.created_at,
        }

    @staticmethod
    def from_document(document: dict[str, Any]) -> File:
        """The file that `to_document` wrote."""
        return File(
            id=document["_id"],
            program=document["program"],
            sha256=document["sha256"],
            size=document["size"],
            content_type=document["content_type"],
            name=document["name"],
            created_at=document["created_at"],
        )


class UploadQuery(Query):
    """How an uploaded file is called."""

    name: str | None = Field(
        None, min_length=1, max_length=255, description="The file's name; a form's file brings its own."
    )


class FileOut(Out):
    """A file."""

    id: str = Field(description="The file's id.", examples=["file_01kav7g1c0v9x2m4n6p8q0r2s4"])
    name: str = Field(description="Its name, offered when it is downloaded.")
    content_type: str = Field(description="Told from the content, not from what the client says.")
    size: int = Field(description="In bytes.")
    sha256: str = Field(description="SHA-256 of the content in hexadecimal.")
    created_at: Timestamp = Field(description="When it was uploaded.")
    download_url: str = Field(description="Opens the content without a key until `download_expires_at`.")
    download_expires_at: Timestamp = Field(description="When the link ends. Read the file again for a new one.")


class InsufficientStorage(Problem):
    """The storage has no room for the upload; nothing of it was kept."""

    code = "insufficient_storage"
    status = 507
    title = "The storage is full"


class LinkExpired(Problem):
    """The download link has ended. Read the file's metadata for a new one."""

    code = "link_expired"
    status = 410
    title = "The link has expired"


def sniff(head: bytes, *, declared: str | None) -> str:
    """The type of a content that begins with `head`.

    Known signatures decide. Text is what the client declares if that is a harmless text type; markup never is,
    whatever it is declared as, because a browser could run what is in it.
    """
    kind = filetype.guess(head)
    if kind is not None:
        return str(kind.mime)
    if not _is_text(head) or head.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"<"):
        return UNKNOWN_TYPE
    stated = (declared or "").split(";", 1)[0].strip().lower()
    return stated if stated in _TEXT_TYPES else "text/plain"


def _is_text(head: bytes) -> bool:
    """UTF-8 without control characters; the last character may be cut."""
    if not _CONTROLS.isdisjoint(head):
        return False
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return True


def clean_name(name: str | None) -> str:
    """A name that is safe to offer: without folders and control characters, at most 255 characters."""
    last = (name or "").replace("\\", "/").rsplit("/", 1)[-1]
    return "".join(character for character in last if character.isprintable()).strip(". ")[:255] or "file"
