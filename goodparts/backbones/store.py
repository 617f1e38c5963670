"""The folder on this machine that keeps backbones by name, and the downloads that fill it.

A backbone is one file, as it came, and beside it a small JSON that says what it is, where it came from and
its SHA-256. The JSON is written last and replaced in one step, so a crash leaves the old backbone or none.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from hashlib import file_digest
from pathlib import Path

from goodparts.errors import BackboneError, OutputError
from goodparts.files import staging

HOME_VARIABLE = "GOODPARTS_HOME"
LICENCES_VARIABLE = "GOODPARTS_ACCEPTED_LICENCES"
HUB_FILE = "model.safetensors"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclass(frozen=True)
class Published:
    """Weights that others publish.

    Attributes:
        repository: on the Hugging Face hub.
        licence: of the weights.
        sha256: of the file, where it is known beforehand.
        architecture: what the file has to hold; empty: what its name says.
        terms: where the licence can be read, if it is one of its own that has to be accepted.
    """

    repository: str
    licence: str
    sha256: str | None = None
    architecture: str = ""
    terms: str = ""

    @property
    def url(self) -> str:
        """Where a person can fetch the file."""
        return f"https://huggingface.co/{self.repository}/resolve/main/{HUB_FILE}"


DINOV3_TERMS = "https://ai.meta.com/resources/models-and-libraries/dinov3-license/"

PUBLISHED = {  # as timm's repositories carry them
    # torchvision's first ImageNet weights (IMAGENET1K_V1)
    "resnet18": Published(
        "timm/resnet18.tv_in1k",
        "BSD-3-Clause",
        "694f673df6520a3158624e8a89af086f59923ee4cd7436fe5bc3bc71d295ad81",
    ),
    "resnet34": Published("timm/resnet34.tv_in1k", "BSD-3-Clause"),
    "resnet50": Published(
        "timm/resnet50.tv_in1k",
        "BSD-3-Clause",
        "5d061a3c593d795bfe682d9b152bafbcf550579873492def3515b46db1189888",
    ),
    "resnet101": Published("timm/resnet101.tv_in1k", "BSD-3-Clause"),
    "wide_resnet50_2": Published(
        "timm/wide_resnet50_2.tv_in1k",
        "BSD-3-Clause",
        "df6fb6c4824769769de18e14088475fd6ee94236849aa4e5d8022ba9d9a9a16c",
    ),
    # Meta's vision transformers, by the names of their authors
    "dino_vits16": Published(
        "timm/vit_small_patch16_224.dino", "Apache-2.0", architecture="vit_small_patch16"
    ),
    "dinov2_vits14": Published(
        "timm/vit_small_patch14_dinov2.lvd142m", "Apache-2.0", architecture="vit_small_patch14"
    ),
    "dinov2_vitb14": Published(
        "timm/vit_base_patch14_dinov2.lvd142m", "Apache-2.0", architecture="vit_base_patch14"
    ),
    "dinov2_vits14_reg": Published(
        "timm/vit_small_patch14_reg4_dinov2.lvd142m", "Apache-2.0", architecture="vit_small_patch14_reg4"
    ),
    "dinov2_vitb14_reg": Published(
        "timm/vit_base_patch14_reg4_dinov2.lvd142m", "Apache-2.0", architecture="vit_base_patch14_reg4"
    ),
    "dinov3_vits16": Published(
        "timm/vit_small_patch16_dinov3.lvd1689m",
        "DINOv3",
        architecture="vit_small_patch16_reg4_rope",
        terms=DINOV3_TERMS,
    ),
    "dinov3_vitb16": Published(
        "timm/vit_base_patch16_dinov3.lvd1689m",
        "DINOv3",
        architecture="vit_base_patch16_reg4_rope",
        terms=DINOV3_TERMS,
    ),
}


def require_accepted(name: str) -> None:
    """Raise BackboneError if published weights have a licence of their own that $GOODPARTS_ACCEPTED_LICENCES lacks."""
    published = PUBLISHED[name]
    accepted = os.environ.get(LICENCES_VARIABLE, "").replace(",", " ").split()
    if published.terms and published.licence not in accepted:
        raise BackboneError(
            f"backbone {name}: its weights come under the {published.licence} licence, which is no open-source "
            f"licence. Read it ({published.terms}); if you accept it, `goodparts backbone pull {name} "
            f"--accept-licence` or {LICENCES_VARIABLE}={published.licence} says so"
        )


@dataclass(frozen=True)
class Entry:
    """What the store knows about one backbone; the content of its JSON.

    Attributes:
        name: under which it is kept.
        file: its file's name in the store.
        sha256: of that file.
        size: of that file, in bytes.
        source: where it came from.
        licence: of the weights, "unknown" where nobody said.
        normalisation: "published" for known weights; empty where the file itself decides.
        layers: the layers to offer first; empty for those that the file itself suggests.
    """

    name: str
    file: str
    sha256: str
    size: int
    source: str
    licence: str
    normalisation: str = ""
    layers: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        """The file, which may be missing."""
        return store_folder() / self.file


def store_folder() -> Path:
    """The folder of the store: `backbones` in $GOODPARTS_HOME, or else in the user's data folder."""
    if home := os.environ.get(HOME_VARIABLE):
        return Path(home).expanduser() / "backbones"
    from platformdirs import user_data_path

    return user_data_path("goodparts", appauthor=False) / "backbones"


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return file_digest(stream, "sha256").hexdigest()


def find(name: str) -> Entry | None:
    """The entry of that name, or None.

    Raises:
        BackboneError: its JSON can't be read.
    """
    if not NAME.fullmatch(name):
        return None
    path = store_folder() / f"{name}.json"
    if not path.is_file():
        return None
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        entry = Entry(**{**fields, "layers": tuple(fields["layers"])})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise BackboneError(f"{path}: damaged ({error}); delete it and add the backbone again") from error
    if entry.name != name or Path(entry.file).name != entry.file:
        raise BackboneError(f"{path}: damaged (names another backbone or folder); delete it and add it again")
    return entry


def entries() -> list[Entry]:
    """All entries, by name."""
    found = (find(path.stem) for path in sorted(store_folder().glob("*.json")))
    return [entry for entry in found if entry is not None]


def verify(entry: Entry) -> Path:
    """The file of an entry, after its hash was checked.

    Raises:
        BackboneError: missing, or not the file that was put there.
    """
    again = f"put it back with `goodparts backbone add {entry.name} FILE`"
    if entry.name in PUBLISHED:
        again = f"`goodparts backbone remove {entry.name}`, then `goodparts backbone pull {entry.name}`"
    if not entry.path.is_file():
        raise BackboneError(f"backbone {entry.name}: its file {entry.path} is missing; {again}")
    if sha256_of(entry.path) != entry.sha256:
        raise BackboneError(
            f"backbone {entry.name}: its file {entry.path} is damaged (its hash differs); {again}"
        )
    return entry.path


def keep(
    source_file: Path,
    name: str,
    *,
    source: str,
    licence: str,
    normalisation: str = "",
    layers: Sequence[str] = (),
) -> Entry:
    """Copy a file into the store under a name, in place of what was kept under it.

    Raises:
        BackboneError: the store can't be written.
    """
    old = find(name)
    with incoming() as folder:
        copied = folder / "file"
        shutil.copyfile(source_file, copied)
        digest = sha256_of(copied)
        entry = Entry(
            name=name,
            file=f"{name}-{digest[:12]}{source_file.suffix.lower()}",
            sha256=digest,
            size=copied.stat().st_size,
            source=source,
            licence=licence,
            normalisation=normalisation,
            layers=tuple(layers),
        )
        description = folder / "json"
        description.write_text(json.dumps(asdict(entry), indent=2) + "\n", encoding="utf-8")
        superseded = old.path if old is not None and old.file != entry.file else None
        copied.replace(entry.path)
        try:
            description.replace(store_folder() / f"{name}.json")
        except OSError:
            if superseded or old is None:
                entry.path.unlink(missing_ok=True)
            raise
        if superseded:
            superseded.unlink(missing_ok=True)
    return entry


def forget(entry: Entry) -> None:
    """Delete an entry and its file.

    Raises:
        BackboneError: they can't be deleted.
    """
    try:
        (store_folder() / f"{entry.name}.json").unlink(missing_ok=True)
        entry.path.unlink(missing_ok=True)
    except OSError as error:
        raise BackboneError(f"backbone {entry.name}: can't be deleted: {error}") from error


@contextmanager
def incoming() -> Iterator[Path]:
    """A folder in the store for files on their way in; it is gone afterwards, whatever happens."""
    folder = store_folder()
    try:
        with staging(folder) as inside:
            yield inside
    except (OSError, OutputError) as error:
        raise BackboneError(
            f"{folder}: the backbone can't be stored there: {error}; make room, or set {HOME_VARIABLE}"
        ) from error


def fetch(name: str, folder: Path, *, offline: bool) -> tuple[Path, str]:
    """Fetch published weights, from the hub's cache on this machine or else from the hub.

    The hub's own settings hold: HF_ENDPOINT, HF_HUB_OFFLINE, HF_HOME and so on.

    Args:
        name: a key of `PUBLISHED`.
        folder: an empty folder to download into.
        offline: never to use the network.

    Returns:
        The file, and the revision of its repository.

    Raises:
        BackboneError: not reachable, or not the file that was published.
    """
    # Else it tells the hub which PyTorch is installed, and whether an agent is at work.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    import huggingface_hub as hub
    from huggingface_hub import constants

    published = PUBLISHED[name]
    elsewhere = (
        f"Fetch {published.url} on a machine that can, and add it with `goodparts backbone add {name} FILE`; "
        "or use the built-in backbone efficientnet_lite0, which needs no download"
    )
    cached = hub.try_to_load_from_cache(published.repository, HUB_FILE)
    if isinstance(cached, str):
        path, revision, expected = Path(cached), Path(cached).parent.name, published.sha256
    elif offline or constants.HF_HUB_OFFLINE:
        raise BackboneError(f"backbone {name} is not on this machine, and downloads are off. {elsewhere}")
    else:
        try:
            metadata = hub.get_hf_file_metadata(hub.hf_hub_url(published.repository, HUB_FILE))
            revision = metadata.commit_hash or constants.DEFAULT_REVISION
            with _quiet_unless_terminal():
                path = Path(
                    hub.hf_hub_download(published.repository, HUB_FILE, revision=revision, local_dir=folder)
                )
        except Exception as error:  # of requests, httpx or the hub itself: that depends on its version
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise BackboneError(
                f"backbone {name} could not be downloaded from {constants.ENDPOINT} ({reason}). {elsewhere}"
            ) from error
        etag = metadata.etag or ""
        expected = published.sha256 or (etag if re.fullmatch("[0-9a-f]{64}", etag) else None)
    found = sha256_of(path)
    if expected is not None and found != expected:
        raise BackboneError(
            f"backbone {name}: what came from {published.repository} is not the file that was published: "
            f"SHA-256 {found}, expected {expected}. {elsewhere}"
        )
    return path, revision


@contextmanager
def _quiet_unless_terminal() -> Iterator[None]:
    """Without the hub's progress bars where there is nobody to look at them."""
    from huggingface_hub import constants
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    quiet = (
        not sys.stderr.isatty()
        and constants.HF_HUB_DISABLE_PROGRESS_BARS is None
        and not are_progress_bars_disabled()
    )
    if quiet:
        disable_progress_bars()
    try:
        yield
    finally:
        if quiet:
            enable_progress_bars()
