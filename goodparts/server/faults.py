"""What can go wrong with a request, each with the status that says so."""

from __future__ import annotations


class Fault(Exception):  # noqa: N818  (nothing is wrong with the service)
    """A request that is not answered as asked.

    Attributes:
        status: of HTTP.
        code: one word for programs.
        message: for people; never names a file of the server, nor has a trace.
        retry_after: seconds after which it is worth another try; None where it is not.
    """

    status, code = 400, "bad_request"

    def __init__(self, message: str, *, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.message, self.retry_after = message, retry_after


class Invalid(Fault):
    """The request is not what is expected here."""

    status, code = 422, "invalid"


class NotLoggedIn(Fault):
    """Nobody knows who asks."""

    status, code = 401, "not_logged_in"


class NotAllowed(Fault):
    """Whoever asks may not do that."""

    status, code = 403, "not_allowed"


class NotFound(Fault):
    """There is no such thing."""

    status, code = 404, "not_found"


class Conflict(Fault):
    """It can't be done as things are."""

    status, code = 409, "conflict"


class Gone(Fault):
    """It was there, and is kept no more."""

    status, code = 410, "not_kept"


class TooLarge(Fault):
    """More bytes than are taken."""

    status, code = 413, "too_large"


class TooMany(Fault):
    """Too many tries."""

    status, code = 429, "too_many"


class Busy(Fault):
    """More than can be done now; nothing of it was begun."""

    status, code = 503, "busy"


class DeadlinePassed(Busy):
    """It could not be answered in time."""

    code = "deadline"


class HistoryUnavailable(Busy):
    """The database can't be reached, so nothing can be promised to be kept."""

    code = "history_unavailable"


class HistoryFullError(Exception):
    """The database's disk is full; inspections are then answered without being recorded."""
