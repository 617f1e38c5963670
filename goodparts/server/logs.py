"""What the service logs: lines for people, or JSON for programs; each with the request that it belongs to."""

from __future__ import annotations

import json
import logging
from contextvars import ContextVar
from datetime import UTC, datetime

REQUEST: ContextVar[str] = ContextVar("request", default="-")
"""The identifier of the request in hand."""


class Lines(logging.Formatter):
    """One line a record, and what goes wrong with its trace below."""

    def format(self, record: logging.LogRecord) -> str:
        """As text."""
        head = f"{_time(record)} {record.levelname:7} {_request(record)} {_plain(record.getMessage())}"
        return f"{head}\n{self.formatException(record.exc_info)}" if record.exc_info else head


class Json(logging.Formatter):
    """One JSON object a record."""

    def format(self, record: logging.LogRecord) -> str:
        """As JSON."""
        entry = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "request": _request(record),
            "message": record.getMessage(),
            **getattr(record, "facts", {}),
        }
        if record.exc_info:
            entry["trace"] = self.formatException(record.exc_info)
        return json.dumps(entry)


def log_to(stream_handler: logging.Handler, log_format: str) -> None:
    """Send what this package and its server log to a handler."""
    stream_handler.setFormatter(Json() if log_format == "json" else Lines())
    for name, level in (
        ("goodparts", logging.INFO),
        ("uvicorn.error", logging.WARNING),
        ("alembic", logging.WARNING),
    ):
        logger = logging.getLogger(name)
        logger.addHandler(stream_handler)
        logger.setLevel(level)
        if name != "goodparts":
            logger.propagate = False


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")


def _request(record: logging.LogRecord) -> str:
    return str(getattr(record, "request", None) or REQUEST.get())


def _plain(text: str) -> str:
    """On one line, whatever somebody sent."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
