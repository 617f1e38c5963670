"""Changes at random to bytes and to values such as JSON holds; all randomness comes from the generator given."""

from __future__ import annotations

import copy
import json
import math
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Any

from numpy.random import Generator

SIZES = (
    0,
    1,
    2,
    127,
    128,
    255,
    256,
    32767,
    65535,
    65536,
    2**24,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**40,
    2**63 - 1,
)
ODD_VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    1,
    -1,
    2,
    0.5,
    -0.0,
    1e-320,
    1e308,
    math.nan,
    math.inf,
    -math.inf,
    2**31,
    2**63,
    10**400,
    "",
    "x",
    "0",
    "nan",
    "x" * 10_000,
    "\0",
    "../../etc/passwd",
    "\u202e\U0001f600",
    [],
    {},
    [0],
    [[]],
    [1, 2],
    [1.5, "a", None],
    {"": ""},
    list(range(1000)),
)


def changed_bytes(data: bytes, others: Sequence[bytes], rng: Generator) -> bytes:
    """The bytes after one to four changes; `others` are what they may be spliced with."""
    for _ in range(int(rng.integers(1, 5))):
        change: Callable[[bytearray, Sequence[bytes], Generator], bytes | bytearray]
        change = _CHANGES[int(rng.integers(len(_CHANGES)))]
        data = bytes(change(bytearray(data), others, rng))
    return data


def changed_text(text: str, others: Sequence[str], rng: Generator) -> bytes:
    """The text as UTF-8 after changes to its bytes, to its lines, or with something deep or long inside."""
    kind = rng.integers(4)
    if kind == 0:
        return changed_bytes(text.encode(), [other.encode() for other in others], rng)
    lines = text.splitlines(keepends=True) or [""]
    at = int(rng.integers(len(lines)))
    if kind == 1:
        words = (
            "[" * 20_000,
            "{a=" * 2_000,
            "9" * 5_000,
            "x" * 100_000,
            '"' * 3,
            "a.b." * 3_000,
            "\ufeff",
            "\\U",
        )
        lines.insert(at, words[int(rng.integers(len(words)))])
    elif kind == 2:
        lines[at] = lines[int(rng.integers(len(lines)))]
    else:
        other = others[int(rng.integers(len(others)))].splitlines(keepends=True) or [""]
        lines.insert(at, other[int(rng.integers(len(other)))])
    return "".join(lines).encode("utf-8", "surrogatepass")


def changed_value(value: Any, rng: Generator) -> Any:
    """A copy of lists, dictionaries and what they hold with one to three places changed."""
    value = copy.deepcopy(value)
    for _ in range(int(rng.integers(1, 4))):
        places = list(_places(value))
        if not places:
            return _odd(rng)
        holder, key = places[int(rng.integers(len(places)))]
        kind = rng.integers(6)
        if kind == 0:
            del holder[key]
        elif kind == 1 and isinstance(holder, dict):
            holder[str(key) + "x"] = holder.pop(key)
        elif kind == 2:
            other, name = places[int(rng.integers(len(places)))]
            holder[key] = copy.deepcopy(other[name])
        elif kind == 3 and isinstance(holder[key], int | float):
            holder[key] = _near(holder[key], rng)
        elif kind == 4 and isinstance(holder, list):
            holder.extend(copy.deepcopy(holder[:1000]))
        else:
            holder[key] = _odd(rng)
    return value


def as_json(value: Any, rng: Generator) -> bytes:
    """As JSON, now and then with something far too deep in it."""
    text = json.dumps(value)
    if rng.random() < 0.05:
        opening, closing = (("[", "]"), ('{"a":', "}"))[int(rng.integers(2))]
        depth = int(rng.choice([500, 2_000, 100_000]))
        text = text.replace("0", opening * depth + "0" + closing * depth, 1)
    return text.encode()


def changed_safetensors(data: bytes, rng: Generator) -> bytes:
    """With another header, or with numbers that are none."""
    (length,) = struct.unpack("<Q", data[:8])
    header, body = data[8 : 8 + length], bytearray(data[8 + length :])
    if rng.random() < 0.5:
        header = as_json(changed_value(json.loads(header), rng), rng)
    else:
        count = int(rng.choice([1, 4, 1000, len(body) // 4]))
        value = struct.pack("<f", float(rng.choice([float("nan"), float("inf"), -1.0, 0.0, 1e38, -1e38])))
        at = 4 * int(rng.integers(max(1, len(body) // 4)))
        body[at : at + 4 * count] = (value * count)[: len(body[at : at + 4 * count])]
    return struct.pack("<Q", len(header)) + header + bytes(body)


def png_with_right_sums(data: bytes) -> bytes:
    """A PNG whose chunks have the checksums of what is in them, so that decoders look further."""
    out, at = bytearray(data[:8]), 8
    while at + 12 <= len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        body = data[at + 4 : at + 8 + length]
        out += data[at : at + 4] + body + struct.pack(">I", zlib.crc32(body))
        at += 12 + length
    return bytes(out)


def _odd(rng: Generator) -> Any:
    return copy.deepcopy(ODD_VALUES[int(rng.integers(len(ODD_VALUES)))])


def _near(number: float, rng: Generator) -> float:
    factor = (-1, 1000, 1e-3, 1e30)[int(rng.integers(4))]
    try:
        return number * factor if rng.integers(2) else number + factor
    except OverflowError:  # an int beyond any float
        return -number


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) in a value; not all of very long lists."""
    found: list[tuple[Any, Any]] = []
    waiting = [value]
    while waiting:
        holder = waiting.pop()
        if isinstance(holder, dict):
            keys: list[Any] = list(holder)
        elif isinstance(holder, list):
            keys = list(range(min(len(holder), 50)))
        else:
            continue
        found += [(holder, key) for key in keys]
        waiting += [holder[key] for key in keys]
    return found


def _span(data: bytearray, rng: Generator) -> slice:
    begin = int(rng.integers(len(data) + 1))
    return slice(begin, begin + int(rng.choice([1, 2, 4, 8, 32, 256, len(data) + 1])))


def _flip(data: bytearray, _: Sequence[bytes], rng: Generator) -> bytearray:
    for at in rng.integers(len(data), size=int(rng.integers(1, 9))) if data else ():
        data[at] ^= 1 << int(rng.integers(8))
    return data


def _truncate(data: bytearray, _: Sequence[bytes], rng: Generator) -> bytearray:
    return data[: int(rng.integers(len(data) + 1))]


def _cut(data: bytearray, _: Sequence[bytes], rng: Generator) -> bytearray:
    del data[_span(data, rng)]
    return data


def _repeat(data: bytearray, _: Sequence[bytes], rng: Generator) -> bytearray:
    part = _span(data, rng)
    data[part.start : part.start] = data[part] * int(rng.choice([1, 2, 100]))
    return data


def _random(data: bytearray, _: Sequence[bytes], rng: Generator) -> bytearray:
    part = _span(data, rng)
    data[part] = rng.bytes(len(data[part]))
    return data


def _zeros(data: bytearray, _: Sequence[bytes], rng: Generator) -> bytearray:
    part = _span(data, rng)
    data[part] = bytes([int(rng.choice([0, 255]))]) * len(data[part])
    return data


def _number(data: bytearray, _: Sequence[bytes], rng: Generator) -> bytearray:
    """A number as lengths are written, where there may be one: more often near the beginning."""
    width = int(rng.choice([1, 2, 4, 8]))
    number = SIZES[int(rng.integers(len(SIZES)))] % 256**width
    at = int(len(data) * rng.random() ** 3)
    data[at : at + width] = number.to_bytes(width, "little" if rng.integers(2) else "big")
    return data


def _splice(data: bytearray, others: Sequence[bytes], rng: Generator) -> bytes | bytearray:
    if not others:
        return data
    other = others[int(rng.integers(len(others)))]
    return bytes(data[: int(rng.integers(len(data) + 1))]) + other[int(rng.integers(len(other) + 1)) :]


_CHANGES = (_flip, _flip, _truncate, _cut, _repeat, _random, _zeros, _number, _number, _splice)
