"""Shards: some images of one product, which one worker inspects in one go, and the file that keeps what they came to.

A shard's file is `shards/PRODUCT/KEY.jsonl`: a line about the shard, then one an image. It is written whole, by the
process that hands out the shards; a worker that dies has so left nothing behind.
"""

from __future__ import annotations

import gc
import hashlib
import json
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from goodparts.errors import GoodpartsError, ImageError, ModelError
from goodparts.files import JsonRecord
from goodparts.fleet.images import ImageFile, OnceRead
from goodparts.fleet.manifest import Row, ShardRow
from goodparts.scale.memory import peak_memory, resident_memory
from goodparts.version import __version__

if TYPE_CHECKING:
    from goodparts.decision.inspection import Inspection
    from goodparts.inspector import Inspector

TRIES = 2
"""How often an image is tried before it is set aside."""


@dataclass(frozen=True)
class Shard:
    """Images that one worker inspects in one go.

    Attributes:
        product: its name.
        model: path of its model file.
        identity: of that model.
        images: which.
        known: of each image sha256 of the bytes that this very model judged before; empty: none.
        pixel_limit: files of more pixels are refused; None: 100 million.
        memory: bytes that its worker should take at most; 0: as many as it likes.
        run: what tells the run that inspects them from all others.
    """

    product: str
    model: str
    identity: str
    images: tuple[ImageFile, ...]
    known: tuple[str, ...]
    pixel_limit: int | None = None
    memory: int = 0
    run: str = ""

    @property
    def name(self) -> str:
        """What its file is called: no other shard of any run has the same name."""
        digest = hashlib.sha256(f"{self.run}\0{self.product}\0{model_key(self.identity)}\n".encode())
        for image in self.images:
            digest.update(f"{image.name}\0{image.size}\0{image.changed}\n".encode())
        return digest.hexdigest()[:20]

    def only(self, index: int) -> Shard:
        """One of its images by itself."""
        part = slice(index, index + 1)
        return replace(self, images=self.images[part], known=self.known[part])


def model_key(identity: str) -> str:
    """What verdicts come of: a model, and the version of this program."""
    return f"{identity}/{__version__}"


def cut(
    images: Sequence[tuple[ImageFile, str]],
    size: int,
    *,
    product: str,
    model: Path,
    identity: str,
    pixel_limit: int | None = None,
    memory: int = 0,
    run: str = "",
) -> Iterator[Shard]:
    """Shards of at most so many of these images, each given with the `known` of a shard."""
    for first in range(0, len(images), size):
        files, known = zip(*images[first : first + size], strict=True)
        yield Shard(product, str(model), identity, files, known, pixel_limit, memory, run)


def shard_path(out: Path, product: str, name: str) -> Path:
    """The file of a shard."""
    return out / "shards" / product / f"{name}.jsonl"


def read_shard(text: str) -> tuple[ShardRow, list[JsonRecord]]:
    """What a shard's file says: of itself, and of each image; ValueError where it is none."""
    head, *lines = text.splitlines()
    facts = json.loads(head)
    if facts.get("shard") is None:
        raise ValueError("no shard")
    row = ShardRow(
        facts["shard"],
        facts["product"],
        facts["images"],
        facts["seconds"],
        facts["memory"],
        facts["version"],
    )
    return row, [json.loads(line) for line in lines]


def row_of(record: JsonRecord, shard: ShardRow) -> Row:
    """The manifest's row of what a shard's file says of an image."""
    found: dict[str, Any] = dict(record)
    reasons, regions = found.get("reasons"), found.get("regions")
    return Row(
        product=shard.product,
        name=found["name"],
        size=found["size"],
        changed=found["changed"],
        content=found["content"],
        model=found["model"],
        shard=shard.name,
        tries=found["tries"],
        verdict=found.get("verdict"),
        score=found.get("score"),
        threshold=found.get("threshold"),
        p_value=found.get("p_value"),
        borderline=None if found.get("borderline") is None else int(found["borderline"]),
        regions=None if regions is None else len(regions),
        reasons=None if reasons is None else "; ".join(reasons),
        error=found.get("error"),
    )


def text_of(shard: Shard, records: Sequence[JsonRecord], seconds: float, memory: int) -> str:
    """What the file of a shard holds."""
    head = {
        "shard": shard.name,
        "product": shard.product,
        "images": len(records),
        "seconds": round(seconds, 3),
        "memory": memory,
        "version": __version__,
    }
    return "".join(f"{json.dumps(line)}\n" for line in (head, *records))


def set_aside(image: ImageFile, identity: str, error: str, tries: int = TRIES) -> JsonRecord:
    """What is said of an image that can't be inspected."""
    return {**_of_file(image, "", identity, tries), "error": error}


# ---- in the worker -------------------------------------------------------------------------------------


def inspect_shard(shard: Shard, threads: int | None, version: str) -> str:
    """Inspect the images of a shard; what its file is to hold.

    An image that can't be read is tried once more, and then has an error in the place of a verdict.

    Raises:
        ModelError: the model can't be loaded, or is another one by now.
        GoodpartsError: this is another version of goodparts than the one that asks.
    """
    if version != __version__:
        raise GoodpartsError(
            f"a worker has goodparts {__version__}, and {version} asks; install the same version on all machines"
        )
    began = time.perf_counter()
    inspector = INSPECTORS.get(shard, threads)
    files = [OnceRead(image.where) for image in shard.images]
    records: list[JsonRecord] = []

    def record(index: int, pixels: object, inspection: Inspection) -> JsonRecord:
        return _judged(shard, index, files[index].content, inspection, 1)

    new = [index for index, known in enumerate(shard.known) if not known or not _same(files[index], known)]
    same = set(range(len(files))) - set(new)
    found = inspector.inspect_many(
        [files[index] for index in new],
        lambda at, pixels, inspection: record(new[at], pixels, inspection),
        on_error="return",
    )
    by_index: dict[int, JsonRecord] = {}
    for index, result in zip(new, found, strict=True):
        by_index[index] = result if isinstance(result, dict) else _second_try(inspector, shard, index)
    for index, image in enumerate(shard.images):
        if index in same:
            records.append({**_of_file(image, shard.known[index], shard.identity, 1), "same": True})
        else:
            records.append(by_index[index])
    return text_of(shard, records, time.perf_counter() - began, peak_memory())


def _same(file: OnceRead, known: str) -> bool:
    try:
        file.read()
    except ImageError:
        return False
    return file.content == known


def _second_try(inspector: Inspector, shard: Shard, index: int) -> JsonRecord:
    file = OnceRead(shard.images[index].where)
    (found,) = inspector.inspect_many([file], on_error="return")
    if isinstance(found, ImageError):
        named = str(found) if file.name in str(found) else f"{file.name}: {found}"
        return {**_of_file(shard.images[index], file.content, shard.identity, TRIES), "error": named}
    return _judged(shard, index, file.content, found, TRIES)


def _judged(shard: Shard, index: int, content: str, inspection: Inspection, tries: int) -> JsonRecord:
    return {
        **_of_file(shard.images[index], content, shard.identity, tries),
        "verdict": inspection.verdict,
        "score": inspection.score,
        "threshold": inspection.threshold,
        "p_value": inspection.p_value,
        "borderline": bool(inspection.borderline),
        "reasons": list(inspection.reasons),
        "regions": [asdict(region) for region in inspection.regions],
        "zones": [{**asdict(zone), "bad": zone.bad} for zone in inspection.zones],
    }


def _of_file(image: ImageFile, content: str, identity: str, tries: int) -> JsonRecord:
    return {
        "name": image.name,
        "where": image.where.encode("utf-8", "backslashreplace").decode(),
        "size": image.size,
        "changed": image.changed,
        "content": content,
        "model": model_key(identity),
        "tries": tries,
    }


class _Inspectors:
    """The models that this worker has loaded, with their compiled engines, the last used last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loaded: OrderedDict[tuple[str, str], Inspector] = OrderedDict()

    def get(self, shard: Shard, threads: int | None) -> Inspector:
        """The inspector of a shard's model; others go where memory would be short."""
        from goodparts.inspector import Inspector

        key = shard.model, shard.identity
        with self._lock:
            if key in self._loaded:
                self._loaded.move_to_end(key)
                return self._loaded[key]
            while self._loaded and shard.memory and resident_memory() > shard.memory // 2:
                self._loaded.popitem(last=False)
                gc.collect()
            inspector = Inspector.load(
                shard.model, workers=threads, pixel_limit=shard.pixel_limit, keep_compiled=False
            )
            if inspector.model.identity != shard.identity:
                raise ModelError(
                    f"{shard.model}: has changed meanwhile: expected identity {shard.identity[:12]}, found "
                    f"{inspector.model.identity[:12]}; start the same command again"
                )
            self._loaded[key] = inspector
            while len(self._loaded) > _KEPT:
                self._loaded.popitem(last=False)
            return inspector


_KEPT = 8  # models
INSPECTORS = _Inspectors()
