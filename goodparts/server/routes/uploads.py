"""Images out of a request: raw bytes, or a form (multipart) with images and what is to be known of them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from goodparts.server.faults import DeadlinePassed, Invalid

_MOST_PARTS = 300
_LONGEST_HEAD = 8192  # bytes of a part's own headers


@dataclass
class Upload:
    """What a request brought.

    Attributes:
        images: the bytes of each.
        names: of their files, where a form has them.
        info: the text of the field `info`, JSON; None where there is none.
    """

    images: list[bytes] = field(default_factory=list)
    info: bytes | None = None
    names: list[str] = field(default_factory=list)


async def read_upload(request: Request, *, most: int, seconds: float) -> Upload:
    """Read a request's body.

    Raises:
        Invalid: it is no form, or has more images than may be, or fields that nobody knows.
        DeadlinePassed: it does not come to its end in time.
    """
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    try:
        async with asyncio.timeout(seconds):
            if kind != b"multipart/form-data":
                return Upload([await request.body()])
            return await _read_form(request, options.get(b"boundary", b""), most)
    except TimeoutError:
        raise DeadlinePassed("the request's body did not come in time", retry_after=1) from None
    except FormParserError:
        raise Invalid("the body is no form (multipart/form-data)") from None


async def _read_form(request: Request, boundary: bytes, most: int) -> Upload:
    if not 1 <= len(boundary) <= 200:
        raise Invalid("Content-Type: expected multipart/form-data with a boundary")
    form = _Form(most)
    callbacks: Any = {
        "on_part_begin": form.begin,
        "on_header_field": form.header_name,
        "on_header_value": form.header_value,
        "on_header_end": form.header_end,
        "on_headers_finished": form.named,
        "on_part_data": form.data,
        "on_end": form.end,
    }
    parser = MultipartParser(boundary, callbacks)
    async for chunk in request.stream():
        parser.write(chunk)
    parser.finalize()
    if not form.ended:
        raise Invalid("the form is not whole: its last boundary is missing")
    info = None if form.info is None else bytes(form.info)
    return Upload([bytes(image) for image in form.images], info, form.names)


class _Form:
    """Takes the parts of a form as they come."""

    def __init__(self, most: int) -> None:
        self.images: list[bytearray] = []
        self.names: list[str] = []
        self.info: bytearray | None = None
        self.ended = False
        self._most, self._parts = most, 0
        self._head: list[tuple[bytes, bytes]] = []
        self._name, self._value, self._length = b"", b"", 0
        self._target = bytearray()

    def begin(self) -> None:
        self._parts += 1
        if self._parts > _MOST_PARTS:
            raise Invalid(f"expected at most {_MOST_PARTS} fields")
        self._head, self._length, self._target = [], 0, bytearray()

    def header_name(self, data: bytes, start: int, end: int) -> None:
        self._count(end - start)
        self._name += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._count(end - start)
        self._value += data[start:end]

    def header_end(self) -> None:
        self._head.append((self._name.lower(), self._value))
        self._name = self._value = b""

    def named(self) -> None:
        disposition = dict(self._head).get(b"content-disposition", b"")
        options = parse_options_header(disposition)[1]
        name = options.get(b"name", b"")
        if name == b"image":
            if len(self.images) == self._most:
                raise Invalid(f"expected at most {self._most} image{'s' * (self._most > 1)}")
            self.images.append(self._target)
            self.names.append(options.get(b"filename", b"image").decode("utf-8", "replace"))
        elif name == b"info" and self.info is None:
            self.info = self._target
        else:
            raise Invalid("expected the fields `image` (a file) and, once, `info` (JSON)")

    def data(self, data: bytes, start: int, end: int) -> None:
        self._target += data[start:end]

    def end(self) -> None:
        self.ended = True

    def _count(self, letters: int) -> None:
        self._length += letters
        if self._length > _LONGEST_HEAD:
            raise Invalid("the headers of a field are too long")
