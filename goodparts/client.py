"""`Client`, for programs that hand images to a service (`goodparts serve`) and look at its history.

client = Client("http://line-3:8765", token="gp_...")
found = client.inspect("flange", "part.png", part="A-17")
print(found.verdict, found.score / found.threshold, found.regions)

It needs httpx (`pip install 'goodparts[client]'`) and nothing of what inspecting itself needs.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self
from urllib.parse import quote

from goodparts.errors import GoodpartsError
from goodparts.files import replacing

if TYPE_CHECKING:
    import httpx

Picture = Literal["image", "heatmap.png", "mask.png", "panel.png"]


class ServiceError(GoodpartsError):
    """A service did not do what was asked.

    Attributes:
        status: of HTTP; 0 where it could not be reached.
        code: one word, such as "busy" or "not_allowed".
    """

    def __init__(self, message: str, *, status: int = 0, code: str = "unreachable") -> None:
        super().__init__(message)
        self.status, self.code = status, code


@dataclass(frozen=True)
class RemoteRegion:
    """A connected part of what was found, in pixels of the image; as `goodparts.Region`."""

    area: int
    peak: float
    box: tuple[int, int, int, int]
    centroid: tuple[float, float]


@dataclass(frozen=True)
class RemoteInspection:
    """An inspection as the service answers it.

    Attributes:
        id: in the history; None where its disk was full and nothing was recorded.
        time: UTC.
        model, model_version: name, and identity of the version that inspected.
        verdict: GOOD, BAD or RECHECK.
        review: none, or what somebody said is true: GOOD or BAD.
        record: all that was answered.
    """

    id: str | None
    time: datetime
    model: str
    model_version: str
    verdict: str
    score: float
    threshold: float
    p_value: float
    borderline: bool
    regions: tuple[RemoteRegion, ...]
    reasons: tuple[str, ...]
    part: str | None
    review: str
    record: Mapping[str, Any]

    @property
    def bad(self) -> bool:
        """Whether the verdict is BAD."""
        return self.verdict == "BAD"


class Client:
    """Asks a service. Several threads may share one.

    Args:
        address: such as https://line-3:8765. token: an API token; None where the service asks for no log-in.
        certificate: a PEM file with the certificate that the service's own must be signed by, where it is not a
        public one. patience: seconds for which a request is tried again while the service says that it is busy, or
        can't be reached. timeout: seconds for one answer.

    Raises:
        ServiceError: httpx is not installed.
    """

    def __init__(
        self,
        address: str,
        token: str | None = None,
        *,
        certificate: str | Path | None = None,
        patience: float = 30.0,
        timeout: float = 60.0,
    ) -> None:
        try:
            import httpx
        except ImportError:
            raise ServiceError("the client needs httpx: pip install 'goodparts[client]'") from None
        verify: Any = True
        if certificate is not None:
            import ssl

            verify = ssl.create_default_context(cafile=str(certificate))
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._patience = patience
        self._http: httpx.Client = httpx.Client(
            base_url=address, headers=headers, timeout=timeout, verify=verify
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connections."""
        self._http.close()

    def inspect(
        self,
        model: str,
        image: str | Path | bytes,
        *,
        part: str | None = None,
        line: str | None = None,
        camera: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> RemoteInspection:
        """Have an image inspected; it is in the service's history when this returns.

        Args:
            model: the name under which it serves.
            image: a path, or the bytes of an image file.
            part, line, camera: by which it can be found again.
            metadata: whatever else is to be kept with it: a JSON object of up to 16 KiB.

        Raises:
            ServiceError: the image can't be read, the service stayed busy, there is no such model ...
        """
        data = image if isinstance(image, bytes) else Path(image).read_bytes()
        info = {"part": part, "line": line, "camera": camera, "metadata": dict(metadata or {})}
        answer = self._ask(
            "POST",
            f"/api/v1/models/{quote(model, safe='')}/inspections",
            files={"image": ("image", data), "info": (None, json.dumps(info))},
        )
        return _inspection(answer.json())

    def inspection(self, identifier: str) -> RemoteInspection:
        """One inspection of the history."""
        return _inspection(self._ask("GET", f"/api/v1/inspections/{quote(identifier, safe='')}").json())

    def inspections(self, **filters: Any) -> Iterator[RemoteInspection]:
        """The history, newest first, page by page.

        Args:
            filters: `since` and `until` (datetime, or text of ISO 8601), model, verdict, part, review, borderline,
            limit
                (rows of a page).
        """
        names = {"since": "from", "until": "to"}
        wanted = {names.get(key, key): _text(value) for key, value in filters.items() if value is not None}
        place: str | None = "/api/v1/inspections"
        while place is not None:
            answer = self._ask("GET", place, params=wanted or None).json()
            yield from map(_inspection, answer["items"])
            place, wanted = answer["next"], {}

    def picture(self, identifier: str, kind: Picture = "image") -> bytes:
        """The image of an inspection as it came in, or a PNG of what was found on it."""
        return self._ask("GET", f"/api/v1/inspections/{quote(identifier, safe='')}/{kind}").content

    def review(
        self, identifier: str, label: Literal["GOOD", "BAD", "UNSURE", "none"], comment: str = ""
    ) -> None:
        """Say what is true of a part."""
        body = {"label": label, "comment": comment}
        self._ask("POST", f"/api/v1/inspections/{quote(identifier, safe='')}/reviews", json=body)

    def models(self) -> list[dict[str, Any]]:
        """The models that serve."""
        found: list[dict[str, Any]] = self._ask("GET", "/api/v1/models").json()
        return found

    def model(self, name: str) -> dict[str, Any]:
        """A model with its card and versions."""
        found: dict[str, Any] = self._ask("GET", f"/api/v1/models/{quote(name, safe='')}").json()
        return found

    def activate(self, name: str, version: str) -> None:
        """Have another version of a model serve."""
        self._ask("POST", f"/api/v1/models/{quote(name, safe='')}/activate", json={"version": version})

    def export(
        self, path: str | Path, *, layout: Literal["mvtec", "report"] = "mvtec", **filters: Any
    ) -> Path:
        """Write a range of the history as a ZIP, piece by piece; filters as `inspections`. OutputError where
        that can't be."""
        names = {"since": "from", "until": "to"}
        wanted = {names.get(key, key): _text(value) for key, value in filters.items() if value is not None}
        with self._http.stream("GET", "/api/v1/export", params={**wanted, "layout": layout}) as answer:
            if answer.status_code != 200:
                answer.read()
                raise _error(answer)
            with replacing(path) as stream:
                for piece in answer.iter_raw():
                    stream.write(piece)
        return Path(path)

    def _ask(self, method: str, place: str, **options: Any) -> httpx.Response:
        """One request; again, while the service is busy and there is patience left."""
        import httpx

        until = time.monotonic() + self._patience
        while True:
            wait = 1.0
            try:
                answer = self._http.request(method, place, **options)
            except httpx.ConnectError as error:  # nothing was sent
                fault = ServiceError(f"{self._http.base_url}: can't be reached ({error})")
            except httpx.HTTPError as error:
                raise ServiceError(
                    f"{self._http.base_url}: no answer ({error or type(error).__name__})"
                ) from error
            else:
                if answer.is_success:
                    return answer
                fault = _error(answer)
                if answer.status_code not in (429, 503):
                    raise fault
                wait = float(answer.headers.get("retry-after", "1"))
            if time.monotonic() + wait > until:
                raise fault
            time.sleep(wait)


def _inspection(record: Mapping[str, Any]) -> RemoteInspection:
    return RemoteInspection(
        id=record["id"],
        time=datetime.fromisoformat(record["time"]),
        model=record["model"],
        model_version=record["model_version"],
        verdict=record["verdict"],
        score=record["score"],
        threshold=record["threshold"],
        p_value=record["p_value"],
        borderline=record["borderline"],
        regions=tuple(
            RemoteRegion(one["area"], one["peak"], tuple(one["box"]), tuple(one["centroid"]))
            for one in record["regions"]
        ),
        reasons=tuple(record["reasons"]),
        part=record["part"],
        review=record["review"],
        record=record,
    )


def _error(answer: httpx.Response) -> ServiceError:
    try:
        error = answer.json()["error"]
        message, code = str(error["message"]), str(error["code"])
    except (ValueError, KeyError, TypeError):
        message, code = answer.reason_phrase or "no reason given", "unknown"
    return ServiceError(f"{answer.request.url.path}: {message}", status=answer.status_code, code=code)


def _text(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value).lower() if isinstance(value, bool) else str(value)
