"""Files of JSON that people hand over: what to say of one that is no JSON as it stands."""

from __future__ import annotations

from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from typing import Final

_FORMS: Final = (
    (b"\x1f\x8b", "is compressed with gzip; unpack it first, as `zcat` does"),
    (b"\x28\xb5\x2f\xfd", "is compressed with zstd; unpack it first, as `zstdcat` does"),
    (b"PK\x03\x04", "is a zip archive; unpack it first"),
    (BOM_UTF16_LE, "is text in UTF-16; save it as UTF-8, as `iconv -f UTF-16 -t UTF-8` does"),
    (BOM_UTF16_BE, "is text in UTF-16; save it as UTF-8, as `iconv -f UTF-16 -t UTF-8` does"),
)
"""The first bytes of files that are often meant, and that would otherwise be a bad line for each of their lines."""


def foreign_form(start: bytes) -> str | None:
    """What a file that begins with these bytes is instead of JSON in UTF-8, and what to do about it; None where
    nothing speaks against it."""
    return next((told for mark, told in _FORMS if start.startswith(mark)), None)
