"""What is answered, as the OpenAPI document has it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from starlette.responses import Response

from goodparts.server.faults import Invalid
from goodparts.server.history.export import time_text

Verdict = Literal["GOOD", "BAD", "RECHECK"]
Label = Literal["GOOD", "BAD", "UNSURE", "none"]
Pixel = Annotated[int, Field(ge=0, le=1_000_000)]
Box = tuple[Pixel, Pixel, Pixel, Pixel]
Role = Literal["operator", "reviewer", "engineer", "administrator"]
LONGEST_DETAILS = 16_384  # bytes of JSON


def plain(text: str) -> str:
    """A text that every database takes: ValueError for control characters and half letters."""
    if any(ord(letter) < 32 or ord(letter) == 127 or 0xD800 <= ord(letter) <= 0xDFFF for letter in text):
        raise ValueError("must have no control characters")
    return text


Text = Annotated[str, Field(max_length=200), AfterValidator(plain)]
Identifier = Annotated[str, Field(pattern="^[0-9a-f]{32}$", examples=["019abc0d5e7f7a31b1f3c2d4e5f60718"])]


class Json(Response):
    """JSON of plain letters: whatever somebody once sent can be answered."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """As bytes."""
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")


class _Answer(BaseModel):
    model_config = ConfigDict(protected_namespaces=())


_EXAMPLE: Any = {
    "id": "01a2262d30d07000b6290385763ffd83",
    "time": "2026-11-29T07:20:25.552Z",
    "model": "flange",
    "model_version": "9727c2a69096fc7c0e05ec5e93843848a1fe1f3ab041dd1a9beab328a2b6a9a7",
    "recipe": "67df20c0be746beef97c9cfb4d4bba018e30e4ec2c4fa5a614daf9cfcf9bdc0d",
    "verdict": "BAD",
    "score": 1.45,
    "threshold": 1.33,
    "p_value": 0.032,
    "borderline": False,
    "zones": [],
    "regions": [{"area": 8434, "peak": 1.52, "box": [424, 553, 552, 648], "centroid": [480.8, 595.2]}],
    "reasons": [],
    "width": 700,
    "height": 700,
    "part": "A-17",
    "line": "3",
    "camera": "top",
    "metadata": {"shift": 2},
    "review": "none",
    "image_sha256": "3c6fae948a26562260cd18c62cd7fe099ca6344cad411abfed6fa4cb33140d2e",
    "image_kept": True,
    "recorded": True,
    "account": "line-3",
    "request": "7ae7542037c55d6d",
    "timings_ms": {"decode": 12.3, "wait": 0.1, "inference": 18.9},
    "links": {
        "self": "/api/v1/inspections/01a2262d30d07000b6290385763ffd83",
        "model": "/api/v1/models/flange",
    },
    "pictures": None,
}


class FaultBody(_Answer):
    """What went wrong."""

    code: str = Field(examples=["busy"])
    message: str
    request: str


class FaultAnswer(_Answer):
    """A request that was not answered as asked."""

    error: FaultBody


class RegionAnswer(_Answer):
    """A connected part of what was found, in pixels of the image that came in."""

    area: int
    peak: float
    box: list[int] = Field(description="left, top, right, bottom; right and bottom exclusive")
    centroid: list[float] = Field(description="x, y")


class ZoneAnswer(_Answer):
    """What was found in a zone of the region of interest."""

    name: str
    score: float
    threshold: float
    bad: bool


class Timings(_Answer):
    """Milliseconds."""

    decode: float
    wait: float = Field(description="from being accepted to being begun, a model's loading included")
    inference: float


class InspectionAnswer(_Answer):
    """An inspection."""

    model_config = ConfigDict(protected_namespaces=(), json_schema_extra={"examples": [_EXAMPLE]})
    id: Identifier | None = Field(
        description="null where the history's disk is full and nothing was recorded"
    )
    time: str = Field(examples=["2026-11-29T07:15:02.113Z"])
    model: str
    model_version: str
    recipe: str
    verdict: Verdict
    score: float
    threshold: float
    p_value: float
    borderline: bool
    zones: list[ZoneAnswer]
    regions: list[RegionAnswer]
    reasons: list[str]
    width: int
    height: int
    part: str | None
    line: str | None
    camera: str | None
    metadata: dict[str, Any]
    review: Label
    image_sha256: str
    image_kept: bool
    recorded: bool
    account: str
    request: str
    timings_ms: Timings
    links: dict[str, str]
    pictures: dict[str, str] | None = Field(None, description="what `include` asked for, in base64")


class ItemAnswer(_Answer):
    """One image of several: its inspection, or why there is none."""

    inspection: InspectionAnswer | None
    error: FaultBody | None


class BatchAnswer(_Answer):
    """Images that were handed in together, in their order."""

    items: list[ItemAnswer]


class PageAnswer(_Answer):
    """A page, newest first."""

    items: list[InspectionAnswer]
    next: str | None = Field(description="where the next page is; null on the last")


class CountsAnswer(_Answer):
    """What came at one place: a model, and the line and camera that clients name."""

    model: str
    line: str
    camera: str
    counts: dict[str, int] = Field(description="by verdict")
    last: InspectionAnswer


class DefectClassAnswer(_Answer):
    """A class of defect."""

    name: str
    reviews: int


class NearestAnswer(_Answer):
    """What a place was compared with."""

    good_image: str = Field(description="its name, as the model learnt it")
    here: bool = Field(description="whether that image is still kept on this machine")
    box: list[int] = Field(description="around the place, in pixels of the image")
    good_box: list[int] | None = Field(
        description="around the nearest good patch, in pixels of the good image"
    )
    value: float | None = Field(description="of the map at the place")
    pixel_threshold: float = Field(description="above it the place is bad")
    links: dict[str, str]


class ReviewBody(BaseModel):
    """What is true of a part."""

    model_config = ConfigDict(extra="forbid")
    label: Label = Field(description="UNSURE: somebody else has to look; none: takes back what was said")
    comment: Annotated[str, Field(max_length=2000), AfterValidator(plain)] = ""
    defect_class: Annotated[str, Field(pattern="^([A-Za-z0-9_][A-Za-z0-9_. -]{0,63})?$")] = Field(
        "", description="what is wrong with a bad part"
    )
    regions: Annotated[list[Box], Field(max_length=50)] = Field(
        [], description="where: left, top, right, bottom in pixels of the image"
    )


class ReviewAnswer(_Answer):
    """A review."""

    id: Identifier
    inspection: Identifier
    time: str
    account: str
    label: Label
    comment: str
    defect_class: str
    regions: list[list[int]]


class VersionAnswer(_Answer):
    """A version of a model."""

    version: str
    active: bool
    added: str
    fitted: str
    recipe: str
    author: str | None = Field(description="who made it here; null: it came as a file")
    note: str


class ModelAnswer(_Answer):
    """A model that serves."""

    name: str
    version: str
    loaded: bool
    refused: str | None = Field(description="why its file, as it is now, does not serve")
    links: dict[str, str]


class ModelPageAnswer(ModelAnswer):
    """A model with its card and versions."""

    card: dict[str, Any]
    versions: list[VersionAnswer]


class ReviewedPartAnswer(_Answer):
    """A part that somebody has reviewed, as a version scores it."""

    inspection: Identifier
    part: str | None
    label: Literal["GOOD", "BAD"]
    score: float


class ReviewedPartsAnswer(_Answer):
    """Reviewed parts, newest first."""

    model: str
    version: str
    threshold: float
    parts: list[ReviewedPartAnswer]
    left_out: int = Field(description="whose image is kept no more, so that this version can't score it")


class DecisionAnswer(ReviewedPartsAnswer):
    """What a threshold rests on."""

    rule: str
    zones: int
    good_scores: list[float] = Field(description="of good images, none compared with itself; ascending")
    good_images: int
    source: str = Field(description="held_out, separate, or copies of a single image")
    certified: bool = Field(description="whether these images had no part in the memory bank")
    confidence: float
    bounds: list[float] = Field(
        description="the false-reject rate that is not exceeded when so many of them are rejected: none, 1, 2, ..."
    )


class ThresholdBody(BaseModel):
    """Another threshold."""

    model_config = ConfigDict(extra="forbid")
    threshold: Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]
    reason: Annotated[str, Field(min_length=3, max_length=500), AfterValidator(plain)]


class NewVersionAnswer(_Answer):
    """A version that serves from now on."""

    version: str
    before: str = Field(description="the one until now: activate it to go back")


class TableAnswer(_Answer):
    """A table of words."""

    head: list[str]
    rows: list[list[str]]


class SectionAnswer(_Answer):
    """A part of a model's card."""

    title: str
    lines: list[str]
    table: TableAnswer | None
    badge: str
    folded: bool


class CardAnswer(_Answer):
    """A model's card in sentences, in English."""

    model: str
    version: str
    threshold: float | None
    good_images: int
    sections: list[SectionAnswer]


class SystemAnswer(_Answer):
    """How a service is, for people."""

    version: str
    running_seconds: float
    database: Literal["SQLite", "PostgreSQL"]
    available: bool
    stored_bytes: int
    free_bytes: int
    degraded: bool
    images_lost: int
    unrecorded: int
    queue: int
    queue_limit: int
    workers: int
    waiting_changes: int
    watchers: int
    models: int
    models_loaded: int
    processor: str
    cores: int


class JobAnswer(_Answer):
    """A model that learns, or did."""

    kind: Literal["fit", "update"]
    account: str
    state: Literal["running", "done", "failed", "stopped"]
    stage: str
    done: int
    total: int
    left: float | None = Field(description="seconds that this stage still takes, about")
    seconds: float
    version: str | None = Field(description="what came of it: activate it, or leave it")
    before: str | None
    message: str
    images: int


class LearningAnswer(_Answer):
    """What there is to learn from."""

    model: str
    serves: bool
    images: int = Field(description="that came in and were not learnt from yet")
    bytes: int
    reviewed_good: int
    presets: list[str]
    job: JobAnswer | None


class FindingAnswer(_Answer):
    """Something about the images that somebody should know."""

    severity: Literal["error", "warning", "note"]
    kind: str
    message: str
    paths: list[str]


class LearnBody(BaseModel):
    """How to learn."""

    model_config = ConfigDict(extra="forbid")
    preset: Annotated[str, Field(max_length=40)] | None = Field(
        None, description="learns a model anew; null: the version that serves learns on"
    )
    reviewed: bool = Field(False, description="whether parts that were reviewed as good join")


class ActivateBody(BaseModel):
    """Which version is to serve."""

    model_config = ConfigDict(extra="forbid")
    version: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class EventAnswer(_Answer):
    """Something that happened."""

    id: Identifier
    time: str
    kind: str
    model: str | None
    message: str


class LoginBody(BaseModel):
    """Who logs in."""

    model_config = ConfigDict(extra="forbid")
    account: Annotated[str, Field(max_length=200)]
    password: Annotated[str, Field(max_length=200)]


class IdentityAnswer(_Answer):
    """Who asks."""

    account: str
    role: Role
    permissions: list[str]
    csrf: str | None = Field(description="send it back as X-CSRF-Token with whatever changes something")


class AccountBody(BaseModel):
    """A new account."""

    model_config = ConfigDict(extra="forbid")
    name: Annotated[str, Field(pattern="^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$")]
    password: Annotated[str, Field(min_length=10, max_length=200)]
    role: Role


class AccountChange(BaseModel):
    """What is to change of an account."""

    model_config = ConfigDict(extra="forbid")
    password: Annotated[str, Field(min_length=10, max_length=200)] | None = None
    role: Role | None = None
    active: bool | None = None


class PasswordBody(BaseModel):
    """A new password of one's own."""

    model_config = ConfigDict(extra="forbid")
    old: Annotated[str, Field(max_length=200)]
    new: Annotated[str, Field(min_length=10, max_length=200)]


class AccountAnswer(_Answer):
    """An account."""

    name: str
    role: Role
    active: bool
    created: str


class TokenBody(BaseModel):
    """A new token."""

    model_config = ConfigDict(extra="forbid")
    name: Text
    scopes: Annotated[list[str], Field(min_length=1, max_length=20)]
    days: Annotated[int, Field(ge=1, le=366)] = 90


class TokenAnswer(_Answer):
    """A token, without its secret."""

    id: str
    name: str
    account: str
    scopes: list[str]
    created: str
    expires: str
    revoked: bool


class NewTokenAnswer(TokenAnswer):
    """A token with its secret, which nobody can read again."""

    token: str


class HealthAnswer(_Answer):
    """How the service is."""

    status: Literal["ok", "ready", "degraded", "unavailable"]


class HeadAnswer(_Answer):
    """The last entry of the audit chain: keep it elsewhere, and hand it to `goodparts server audit verify --head`."""

    head: str


class AuditAnswer(_Answer):
    """An entry of the audit chain."""

    sequence: int
    time: str
    actor: str
    action: str
    subject: str
    details: dict[str, Any]
    previous: str
    hash: str


def inspection_record(row: Mapping[str, Any], *, recorded: bool = True) -> dict[str, Any]:
    """A row as it is answered."""
    place = f"/api/v1/inspections/{row['id']}"
    links = {"model": f"/api/v1/models/{row['model']}"}
    if recorded:
        links["self"] = place
    if recorded and row["kept"]:
        links |= {name: f"{place}/{name}" for name in ("image", "heatmap.png", "mask.png", "panel.png")}
    return {
        "id": row["id"] if recorded else None,
        "time": time_text(row["time"]),
        **{name: row[name] for name in _AS_THEY_ARE},
        "borderline": bool(row["borderline"]),
        "zones": json.loads(row["zones"]),
        "regions": json.loads(row["regions"]),
        "reasons": json.loads(row["reasons"]),
        "metadata": json.loads(row["details"]),
        "image_kept": recorded and bool(row["kept"]),
        "recorded": recorded,
        "timings_ms": {name: row[f"{name}_ms"] for name in ("decode", "wait", "inference")},
        "links": links,
        "pictures": None,
    }


_AS_THEY_ARE = (
    "model", "model_version", "recipe", "verdict", "score", "threshold", "p_value", "width", "height", "part", "line",
    "camera", "review", "image_sha256", "account", "request",
)  # fmt: skip


def read_details(text: str | bytes) -> dict[str, Any]:
    """Whatever a client wants kept of a part: a JSON object; Invalid for anything else."""
    if len(text) > LONGEST_DETAILS:
        raise Invalid(f"metadata: expected at most {LONGEST_DETAILS:,} bytes of JSON")
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
        json.dumps(value, allow_nan=False)
    except (ValueError, RecursionError):
        raise Invalid('metadata: expected a JSON object, such as {"shift": 2}') from None
    if not isinstance(value, dict):
        raise Invalid('metadata: expected a JSON object, such as {"shift": 2}')
    return value


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def finite(value: Any) -> Any:
    """A JSON value with null for what is no number."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [finite(one) for one in value]
    return value
