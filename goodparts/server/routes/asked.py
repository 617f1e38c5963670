"""What routes ask of a request: the service, who asks, and which inspections are meant."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, cast

from fastapi import Depends, Path, Query, Request
from starlette.concurrency import run_in_threadpool

from goodparts.server.access.permissions import Identity
from goodparts.server.answers import FaultAnswer, Label, Text, Verdict
from goodparts.server.faults import Invalid
from goodparts.server.history.pages import Filter
from goodparts.server.service import Service

ModelName = Annotated[str, Path(max_length=64, pattern="^[A-Za-z0-9][A-Za-z0-9._-]*$", examples=["flange"])]
InspectionId = Annotated[str, Path(pattern="^[0-9a-f]{32}$", examples=["019abc0d5e7f7a31b1f3c2d4e5f60718"])]
_WORDS = {
    400: "The request can't be read",
    401: "Nobody is logged in",
    403: "Whoever asks may not do that",
    404: "There is no such thing",
    405: "Not this method",
    409: "Not as things are",
    410: "It was there, and is kept no more",
    413: "Too large",
    422: "Not what is expected",
    429: "Too many tries; Retry-After says when to come again",
    503: "Too busy, too late or the history is out of reach; Retry-After says when to come again",
}


def faults(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What may go wrong at an address, for the OpenAPI document."""
    every = (400, 401, 403, 413, 422, 503, *statuses)
    return {status: {"model": FaultAnswer, "description": _WORDS[status]} for status in sorted(every)}


def service_of(request: Request) -> Service:
    """The service that answers."""
    return cast(Service, request.app.state.service)


async def asked_service(request: Request) -> Service:
    """The same for a route; what is not async would go through a thread."""
    return service_of(request)


def needs(permission: str | None) -> Callable[[Request], Awaitable[Identity]]:
    """Who asks, where they may do this; None: whoever is logged in."""

    async def identify(request: Request) -> Identity:
        gate = service_of(request).gate
        identity = gate.remembered(request)
        if identity is None:
            identity = await run_in_threadpool(gate.identify, request)
        return gate.require(request, identity, permission)

    return identify


async def asked_filter(
    since: Annotated[
        str | None, Query(alias="from", max_length=40, examples=["2026-11-29T06:00:00Z"])
    ] = None,
    until: Annotated[str | None, Query(alias="to", max_length=40, description="exclusive")] = None,
    model: Annotated[Text | None, Query()] = None,
    verdict: Annotated[Verdict | None, Query()] = None,
    part: Annotated[Text | None, Query()] = None,
    review: Annotated[Label | Literal["reviewed"] | None, Query()] = None,
    borderline: Annotated[bool | None, Query()] = None,
) -> Filter:
    """Which inspections are meant."""
    return Filter(
        since=None if since is None else time_of_text("from", since),
        until=None if until is None else time_of_text("to", until),
        model=model,
        verdict=verdict,
        part=part,
        review=review,
        borderline=borderline,
    )


AskedFilter = Annotated[Filter, Depends(asked_filter)]
AskedService = Annotated[Service, Depends(asked_service)]


def time_of_text(name: str, text: str) -> int:
    """Microseconds since 1970 of a time of ISO 8601, in UTC where it does not say; Invalid, which names the field."""
    try:
        found = datetime.fromisoformat(text.replace(" ", "+"))
        found = found if found.tzinfo else found.replace(tzinfo=UTC)
        return int((found - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1_000_000)
    except (ValueError, OverflowError):
        raise Invalid(f"{name}: expected a time of ISO 8601, such as 2026-11-29T06:00:00Z") from None
