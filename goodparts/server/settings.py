"""The settings of a service: one flat list, as flags of `goodparts serve` or keys of a TOML file."""

from __future__ import annotations

import ipaddress
import os
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from types import UnionType
from typing import Any, Self, get_args, get_type_hints

from goodparts.errors import GoodpartsError

MIB, GIB = 2**20, 2**30
DURABILITIES = ("answered", "buffered")
LOG_FORMATS = ("lines", "json")


class SettingsError(GoodpartsError):
    """A setting of the service is unknown, or has a value that does not fit."""


def _key(default: Any, about: str) -> Any:
    return field(default=default, metadata={"about": about})


@dataclass(frozen=True)
class Settings:
    """How a service runs.

    Attributes:
        models: model files by the names under which they serve, or a folder's or file's path alone as in `models`.
    """

    models: tuple[str, ...] = field(default=(), metadata={"about": "Model files, or folders of them."})
    host: str = _key("127.0.0.1", "Address to listen at; 0.0.0.0 for all of this machine's.")
    port: int = _key(8765, "Port to listen at.")
    data: str = _key("goodparts-data", "Folder of the history: database, images, keys.")
    database: str | None = _key(
        None, "postgresql://USER:PASSWORD@HOST/NAME; else SQLite in the folder of the history."
    )
    workers: int | None = _key(None, "Images inspected side by side. [default: cores + 1]")
    queue: int = _key(32, "Images accepted at a time, waiting or in work; beyond, 503.")
    deadline: float = _key(30.0, "Seconds after which a request that has not begun is refused with 503.")
    max_bytes: int = _key(64 * MIB, "Bytes of a request, at most.")
    pixel_limit: int = _key(50_000_000, "Images of more pixels are refused undecoded.")
    loaded_models: int = _key(4, "Models kept in memory; the least recently used goes.")
    reload_seconds: float = _key(2.0, "How often model files are looked at for changes; 0: never.")
    require_signature: str | None = _key(None, "Refuse models that the key of this .pub file has not signed.")
    durability: str = _key(
        "answered", "answered: a verdict is given when it is on the disk; buffered: before that."
    )
    keep_good_days: float | None = _key(
        None, "Days that images of GOOD parts are kept. [default: as keep-days]"
    )
    keep_days: float | None = _key(
        None, "Days that images are kept, but of reviewed and borderline ones. [default: for ever]"
    )
    keep_rows_days: float | None = _key(
        None, "Days that rows of the history are kept, reviewed ones longer. [default: for ever]"
    )
    keep_bytes: int | None = _key(None, "Bytes that images may take. [default: as many as fit]")
    least_free: int = _key(
        GIB, "Bytes that stay free on the disk: older images go, and then new ones are not kept."
    )
    login: bool = _key(True, "Ask who it is. Without, the service listens to this machine only.")
    certificate: str | None = _key(None, "TLS certificate (PEM).")
    key: str | None = _key(None, "Its private key (PEM).")
    trusted_proxy: str | None = _key(
        None, "Address of a reverse proxy that says who asks, by the headers below."
    )
    user_header: str = _key("X-Forwarded-User", "Header in which that proxy names the account.")
    role_header: str = _key("X-Forwarded-Role", "Header in which it names the role; without, operator.")
    log_format: str = _key("lines", "lines or json.")

    def __post_init__(self) -> None:
        """Refuse what does not go together."""
        self._require(0 <= self.port <= 65535, "port", "a port from 0 to 65535")
        for name in ("queue", "max_bytes", "pixel_limit", "loaded_models"):
            self._require(getattr(self, name) >= 1, name, "1 or more")
        self._require(self.workers is None or self.workers >= 1, "workers", "1 or more")
        self._require(self.deadline > 0, "deadline", "more than 0 seconds")
        self._require(self.reload_seconds >= 0, "reload_seconds", "0 or more seconds")
        self._require(self.least_free >= 0, "least_free", "0 or more bytes")
        for name in ("keep_days", "keep_good_days", "keep_rows_days", "keep_bytes"):
            value = getattr(self, name)
            self._require(value is None or value > 0, name, "more than 0")
        self._require(self.durability in DURABILITIES, "durability", " or ".join(DURABILITIES))
        self._require(self.log_format in LOG_FORMATS, "log_format", " or ".join(LOG_FORMATS))
        if (self.certificate is None) != (self.key is None):
            raise SettingsError("certificate, key: TLS needs both, the certificate and its private key")
        for name in ("certificate", "key"):
            if (path := getattr(self, name)) is not None and not Path(path).is_file():
                raise SettingsError(f"{name}: {path}: no such file; expected PEM")
        if not self.login and not self.loopback:
            raise SettingsError(
                "host: without a log-in the service listens to this machine only; expected 127.0.0.1, found "
                f"{self.host}"
            )
        if self.trusted_proxy is not None:
            try:
                ipaddress.ip_address(self.trusted_proxy)
            except ValueError:
                raise SettingsError(
                    f"trusted_proxy: expected an address such as 10.0.0.5, found {self.trusted_proxy!r}"
                ) from None

    def _require(self, fits: bool, name: str, expected: str) -> None:
        if not fits:
            raise SettingsError(f"{name}: expected {expected}, found {getattr(self, name)!r}")

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return self.host in ("localhost", "::1") or self.host.startswith("127.")

    @property
    def folder(self) -> Path:
        """Of the history."""
        return Path(self.data)

    @property
    def address(self) -> str:
        """Where a browser on this machine finds it."""
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::", "") else self.host
        host = f"[{host}]" if ":" in host else host
        return f"{'https' if self.certificate else 'http'}://{host}:{self.port}"

    @classmethod
    def load(cls, file: str | os.PathLike[str] | None, changes: Mapping[str, Any]) -> Self:
        """Settings of a TOML file, if there is one, with what was given otherwise; None in `changes`: not given.

        Raises:
            SettingsError: the file can't be read; a key is unknown, or its value does not fit.
        """
        values: dict[str, Any] = {}
        if file is not None:
            try:
                with Path(file).open("rb") as stream:
                    values = tomllib.load(stream)
            except OSError as error:
                raise SettingsError(f"{file}: can't be read ({error.strerror or error})") from None
            except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
                raise SettingsError(f"{file}: is no TOML ({error})") from None
        values |= {name: value for name, value in changes.items() if value is not None}
        kinds = get_type_hints(cls)
        for name, value in values.items():
            if name not in kinds:
                raise SettingsError(f"{name}: is no setting; expected some of {', '.join(KEYS)}")
            values[name] = _fitting(name, value, kinds[name])
        return cls(**values)


KEYS = {item.name: item for item in fields(Settings)}


def default_of(name: str) -> Any:
    """The default of a setting."""
    default = KEYS[name].default
    return None if default is MISSING else default


def _fitting(name: str, value: Any, kind: Any) -> Any:
    kinds = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    if name == "models":
        if isinstance(value, str):
            value = [value]
        if not isinstance(value, list | tuple) or not all(isinstance(one, str) for one in value):
            raise SettingsError("models: expected a list of files and folders")
        return tuple(value)
    if float in kinds and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not any(type(value) is one for one in kinds):
        words = " or ".join(one.__name__ for one in kinds if one is not type(None))
        raise SettingsError(f"{name}: expected {words}, found {value!r}")
    return value
