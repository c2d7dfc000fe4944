"""BSON documents as bytes, without making objects of them: that is what most of a restore's time would go into."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from bson.codec_options import CodecOptions, DatetimeConversion
from bson.raw_bson import RawBSONDocument

RAW: Final[CodecOptions[RawBSONDocument]] = CodecOptions(
    document_class=RawBSONDocument, datetime_conversion=DatetimeConversion.DATETIME_MS
)
"""For collections whose documents are to stay bytes. Years beyond Python's are no reason to fail."""

_LENGTH: Final = struct.Struct("<i")
_SMALLEST: Final = 5
_LARGEST: Final = 64 << 20
"""More than any server writes: a length beyond it is no length."""


class NotBson(ValueError):
    """Bytes that are no whole BSON documents."""


def documents(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The documents of a stream that holds nothing else. NotBson where it is none, or ends within one."""
    rest = b""
    for chunk in chunks:
        held = rest + chunk
        begin, end = 0, len(held)
        while end - begin >= _LENGTH.size:
            (size,) = _LENGTH.unpack_from(held, begin)
            if not _SMALLEST <= size <= _LARGEST:
                raise NotBson(f"a document of {size} bytes")
            if end - begin < size:
                break
            yield held[begin : begin + size]
            begin += size
        rest = held[begin:]
    if rest:
        raise NotBson("the last document is cut off")


def batches(raw: Iterable[bytes], *, size: int) -> Iterator[list[RawBSONDocument]]:
    """Documents in lists of about `size` bytes, ready to be inserted."""
    batch: list[RawBSONDocument] = []
    held = 0
    for document in raw:
        batch.append(RawBSONDocument(document, RAW))
        held += len(document)
        if held >= size:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


def write_new(path: Path, parts: Iterable[bytes]) -> int:
    """Write a new file for its owner alone, since it holds what the database held; how many parts there were."""
    count = 0
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        for part in parts:
            count += 1
            file.write(part)
    return count
