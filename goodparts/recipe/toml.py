"""Recipes as TOML that somebody wrote: read, and said what is wrong with it in words that help.

A recipe is a flat list of keys, so anything large, deep or long is no recipe and is refused before it is parsed.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from goodparts.errors import RecipeError, quoted

_LARGEST = 256 * 1024  # bytes of a file; all keys with their explanations are a twentieth of it
_LONGEST_LINE = 5000  # letters
_DOTTED = re.compile(
    r"(?<![^\s.,=])(?:[^\s.,=]++\s*+\.\s*+){25}"
)  # a name in so many parts, where keys have one

_BACKSLASH = (
    "a backslash in double quotes begins a special letter; write a Windows path in single quotes, such as "
    r"'C:\parts\zones.json', or with slashes"
)


def read_text(path: Path, *, expected: str, largest: int = _LARGEST) -> str:
    """What a text file in UTF-8 says.

    Args:
        path: a regular file.
        expected: what the file should be, for messages.
        largest: bytes; more are refused unread.

    Raises:
        FileNotFoundError: no such file.
        RecipeError: it is no regular file, too large, or not in UTF-8; without the path, which the caller names.
    """
    return text_of(read_bytes(path, expected=expected, largest=largest), expected)


def read_bytes(path: Path, *, expected: str, largest: int) -> bytes:
    """What a file holds; errors as `read_text`."""
    try:
        if path.exists() and not path.is_file():
            what = "is a folder" if path.is_dir() else "is no regular file"
            raise RecipeError(f"can't be read: it {what}; expected {expected}")
        with path.open("rb") as stream:
            content = stream.read(largest + 1)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise RecipeError(f"can't be read ({reason}); expected {expected}") from None
    if len(content) > largest:
        raise RecipeError(f"can't be read: it is larger than {largest:,} bytes; expected {expected}")
    return content


def text_of(content: bytes, expected: str) -> str:
    """Bytes of a file as text; RecipeError, without the path, if they are not UTF-8."""
    if content[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in content[:4]:
        raise RecipeError(
            f"can't be read: it is UTF-16, as `>` of Windows PowerShell writes it; expected {expected} in UTF-8; "
            "save it as that in an editor, or write it with `| Out-File -Encoding utf8 FILE` instead of `> FILE`"
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise RecipeError(
            f"can't be read: it is not in UTF-8; line {line} has the byte 0x{content[error.start]:02x}; expected "
            f"{expected} in UTF-8: save it as that in an editor"
        ) from None


def parse(text: str) -> dict[str, Any]:
    """The keys and values of a TOML text; RecipeError, which names no source, if it is none."""
    if len(text) > _LARGEST:
        raise RecipeError(f"has {len(text):,} letters; {_LARGEST:,} is the most")
    lines = text.split("\n")
    for number, line in enumerate(lines, 1):
        if len(line) > _LONGEST_LINE:
            raise RecipeError(
                f"line {number} has {len(line):,} letters, {_LONGEST_LINE:,} is the most; expected a key, =, a value"
            )
        if _DOTTED.search(line):
            raise RecipeError(f"line {number}: {quoted(line)}: keys of a recipe have no dots in their names")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise RecipeError(
            "is nested too deeply; expected a flat list of keys, as `goodparts recipe` prints it"
        ) from None
    except ValueError as error:  # TOMLDecodeError is one; so is a number of too many digits
        raise RecipeError(f"not a TOML file: {error}{_advice(str(error), lines)}") from None


def require_plain(values: dict[str, Any]) -> None:
    """RecipeError if a text has a tab, an end of line or the like: what `\\t` and `\\n` in a path became."""
    for key, value in values.items():
        if isinstance(value, str) and (found := re.search(r"[\x00-\x1f]", value)):
            raise RecipeError(
                f"{key}: {quoted(value)} has the control character {found[0]!r}: {_BACKSLASH}", key=key
            )


def _advice(error: str, lines: list[str]) -> str:
    """What to do where a backslash is the reason."""
    at = re.search(r"at line (\d+)", error)
    line = lines[int(at[1]) - 1] if at and int(at[1]) <= len(lines) else ""
    return f": {_BACKSLASH}" if re.search(r"\"[^\"]*\\", line) else ""
