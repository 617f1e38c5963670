"""What this machine offers, and what to do about each problem."""

from __future__ import annotations

import os
import platform
import shutil
import struct
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import psutil  # type: ignore[import-untyped]

from goodparts.backbones.store import HOME_VARIABLE, store_folder
from goodparts.engines import engine
from goodparts.engines.runtime import (
    DEVICE_VARIABLE,
    ENGINE_VARIABLE,
    ENGINES,
    INSTALL,
    KINDS,
    Runtime,
    installed,
    version_of,
)
from goodparts.engines.telemetry import silence_openvino
from goodparts.errors import BackboneError, EngineError
from goodparts.files import abandoned
from goodparts.recipe.recipe import Recipe

Status = Literal["ok", "note", "warning", "error"]

PACKAGES = ("numpy", "pillow", "onnx", "openvino", "safetensors", "huggingface_hub", "matplotlib", "psutil")
GIB = 2**30
LITTLE_MEMORY, TOO_LITTLE_MEMORY = 2 * GIB, GIB // 2  # available
LITTLE_DISK, TOO_LITTLE_DISK = GIB, GIB // 10  # free
_OFFLINE_VARIABLES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
_CONTROL_GROUP = Path("/sys/fs/cgroup")
_GRAPHICS = Path("/dev/dri")


@dataclass(frozen=True)
class Row:
    """One thing that was looked at.

    Attributes:
        name: what it is, such as "memory".
        value: what was found.
        status: "ok", "note" (good to know), "warning" (may get in the way) or "error" (does get in the way).
        advice: what to do about it; empty where nothing needs doing.
    """

    name: str
    value: str
    status: Status = "ok"
    advice: str = ""


def examine(*, ask_hub: bool = False, timed: bool = False) -> list[Row]:
    """Look at everything on this machine that the program depends on.

    Args:
        ask_hub: try to reach the hub that backbones are downloaded from; else nothing is sent anywhere.
        timed: time the default pipeline on each engine and device, which takes seconds.
    """
    return [
        *_python(),
        *_packages(),
        *_devices(),
        *_engines(),
        *_graphics(),
        *(_timings() if timed else ()),
        *_cores(),
        *_memory(),
        *_folders(),
        *_leftovers(),
        *_backbones(),
        *_hub(ask_hub),
    ]


def examine_server(config: Path | None, changes: Mapping[str, Any]) -> list[Row]:
    """Look at what a service with the settings of a file, and with what was given otherwise, depends on.

    Raises:
        SettingsError: the file can't be read, or a setting does not fit.
    """
    from goodparts.server import checks
    from goodparts.server.settings import Settings

    return [Row(*check) for check in checks.examine(Settings.load(config, changes))]


def _python() -> Iterator[Row]:
    bits = 8 * struct.calcsize("P")
    system = f"{platform.system()} {platform.release()}, {platform.machine()}"
    value = f"{platform.python_version()}, {bits} bits, {system}"
    if bits < 64:
        yield Row("Python", value, "error", "OpenVINO needs 64 bits; install the 64-bit Python")
    else:
        yield Row("Python", value)


def _packages() -> Iterator[Row]:
    missing = []
    found = []
    for package in ("goodparts", *PACKAGES):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            missing.append(package)
    yield Row("packages", ", ".join(found))
    if missing == ["goodparts"]:
        yield Row("goodparts", "run from a source tree", "note", "pip install -e . to have the command, too")
    elif missing:
        advice = f"pip install {' '.join(missing)}"
        yield Row("missing packages", ", ".join(missing), "error", advice)


def _devices() -> Iterator[Row]:
    """OpenVINO, the devices that it can use, and the precisions in which they are quick."""
    silent = silence_openvino()
    try:
        found = engine.devices()
        names = [device.name for device in found]
        yield Row("OpenVINO", f"{version('openvino')}, devices: {', '.join(names)}")
    except (ImportError, OSError, RuntimeError) as error:
        advice = "pip install --force-reinstall openvino"
        if sys.platform == "win32":
            advice += ", and install the Microsoft Visual C++ Redistributable (x64)"
        status: Status = "warning" if any(map(installed, ENGINES[1:])) else "error"
        yield Row("OpenVINO", f"can't be used: {_first_line(error)}", status, advice)
        return
    for device in found:
        if device.failure:
            advice = "update its driver, or go on without it"
            yield Row(f"device {device.name}", f"doesn't answer: {device.failure}", "warning", advice)
            continue
        shown = ", ".join(item for item in device.formats if item not in ("BIN", "EXPORT_IMPORT"))
        yield Row(f"device {device.name}", f"{device.title} ({shown})")
    if "CPU" not in names:
        yield Row("device CPU", "not offered", "error", "pip install --force-reinstall openvino")
    if not silent:
        advice = "import goodparts before openvino, or opt out: opt_in_out --opt_out"
        yield Row("telemetry", "OpenVINO's is active", "warning", advice)


def _engines() -> Iterator[Row]:
    """The engines that are extras, and what is used where nothing is asked for."""
    for engine_name in ENGINES[1:]:
        if installed(engine_name):
            yield Row(f"engine {engine_name}", version_of(engine_name))
        else:
            yield Row(f"engine {engine_name}", "not installed", "note", INSTALL[engine_name])
    try:
        yield Row("computed by", f"{Runtime.of()}, unless --engine or --device says otherwise")
    except EngineError as error:
        advice = f"install it, or take back {ENGINE_VARIABLE} and {DEVICE_VARIABLE}"
        yield Row("computed by", _first_line(error), "error", advice)


def _timings() -> Iterator[Row]:
    """The default pipeline for one image, on each engine and device that is there."""
    from goodparts.model.trial import latency, trial_pipeline

    try:
        graph = trial_pipeline(Recipe())
    except BackboneError:  # told among the backbones
        return
    for engine_name in filter(installed, ENGINES):
        for kind in (kind for kind, engines in KINDS.items() if engine_name in engines):
            try:
                runtime = Runtime.of(engine_name, kind)
                milliseconds = 1000 * latency(runtime, graph)
            except (EngineError, BackboneError) as error:
                if kind == "cpu":
                    yield Row(f"{engine_name} on {kind}", _first_line(error), "warning", INSTALL[engine_name])
                continue
            value = f"{milliseconds:.1f} ms for an image with the recipe default"
            yield Row(str(runtime), value)


def _graphics() -> Iterator[Row]:
    """Hints where there is a graphics processor that OpenVINO does not offer."""
    nodes = sorted(_GRAPHICS.glob("renderD*")) if _GRAPHICS.is_dir() else []
    closed = [node for node in nodes if not os.access(node, os.R_OK | os.W_OK)]
    if closed:
        advice = "add the user to the group `render` and log in again, if the GPU is to be used"
        yield Row("GPU access", f"{closed[0]} is closed to this user", "note", advice)
    if shutil.which("nvidia-smi"):
        try:
            used = Runtime.of(device="cuda")
        except EngineError as error:
            yield Row("NVIDIA GPU", "there, but not used", "note", _first_line(error))
        else:
            yield Row("NVIDIA GPU", f"{used.found.title or 'there'}, used by engine {used.engine}")


def _cores() -> Iterator[Row]:
    logical = psutil.cpu_count() or 1
    physical = psutil.cpu_count(logical=False)
    usable = _usable_cores(logical)
    quota = _processor_quota()
    parts = [f"{logical} logical"]
    parts += [f"{physical} physical"] if physical else []
    parts += [f"{usable} usable by this process"] if usable < logical else []
    parts += [f"limited to {quota:g} by its container"] if quota else []
    if quota and quota < usable:
        advice = f"give --workers {max(1, int(quota))}; more threads than that only wait for each other"
        yield Row("processor cores", ", ".join(parts), "note", advice)
    else:
        yield Row("processor cores", ", ".join(parts))


def _usable_cores(logical: int) -> int:
    if sys.version_info >= (3, 13):
        return os.process_cpu_count() or logical
    process = psutil.Process()
    return len(process.cpu_affinity()) if hasattr(process, "cpu_affinity") else logical


def _processor_quota() -> float | None:
    """Cores' worth of time that a Linux container may use, or None where there is no limit."""
    quota, period = [*_numbers(_CONTROL_GROUP / "cpu.max"), 0, 0][:2]
    if not quota or not period:
        quota = next(iter(_numbers(_CONTROL_GROUP / "cpu" / "cpu.cfs_quota_us")), 0)
        period = next(iter(_numbers(_CONTROL_GROUP / "cpu" / "cpu.cfs_period_us")), 0)
    return quota / period if quota > 0 and period > 0 else None


def _memory_limit() -> int | None:
    """Bytes that a Linux container may use, or None where there is no limit."""
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        for limit in _numbers(_CONTROL_GROUP / name):
            return limit
    return None


def _memory_in_use() -> int:
    """Bytes that a Linux container uses; 0 where that can't be known."""
    for name in ("memory.current", "memory/memory.usage_in_bytes"):
        for usage in _numbers(_CONTROL_GROUP / name):
            return usage
    return 0


def _numbers(path: Path) -> list[int]:
    """The whole numbers in a file of the kernel; none where it is missing, and "max" is none."""
    try:
        words = path.read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return []
    return [int(word) for word in words if word.lstrip("-").isdigit()]


def _memory() -> Iterator[Row]:
    memory = psutil.virtual_memory()
    total, available = memory.total, memory.available
    value = f"{_size(available)} available of {_size(total)}"
    limit = _memory_limit()
    if limit is not None and limit < total:
        available = min(available, max(0, limit - _memory_in_use()))
        value += f"; the container is limited to {_size(limit)}, {_size(available)} of it available"
    advice = "close other programs, or fit with a smaller --image-size or --sampling-limit"
    if available < LITTLE_MEMORY:
        yield Row("memory", value, "error" if available < TOO_LITTLE_MEMORY else "warning", advice)
    else:
        yield Row("memory", value)


def _folders() -> Iterator[Row]:
    """Where backbones are kept and where temporary files go: writable, and with room."""
    source = f" (from {HOME_VARIABLE})" if os.environ.get(HOME_VARIABLE) else ""
    cases = (
        ("backbone folder", store_folder(), source, f"set {HOME_VARIABLE} to a folder you may write to"),
        (
            "temporary folder",
            Path(tempfile.gettempdir()),
            "",
            "set TMPDIR (TEMP on Windows) to another folder",
        ),
    )
    for name, folder, note, advice in cases:
        present = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        state = "" if present == folder else ", not made yet"
        try:
            with tempfile.TemporaryFile(dir=present):
                pass
            free = shutil.disk_usage(present).free
        except OSError as error:
            value = f"{folder}{note}: can't be written ({error.strerror or error})"
            yield Row(name, value, "error" if name == "temporary folder" else "warning", advice)
            continue
        value = f"{folder}{note}{state}, {_size(free)} free"
        if free < LITTLE_DISK:
            status: Status = "error" if free < TOO_LITTLE_DISK else "warning"
            yield Row(name, value, status, f"free some space, or {advice}")
        else:
            yield Row(name, value)


def _leftovers() -> Iterator[Row]:
    """What killed processes left unfinished where this program writes: not looked for in other folders."""
    for folder in dict.fromkeys((store_folder(), Path(tempfile.gettempdir()), Path.cwd())):
        if found := abandoned(folder):
            inside = [part for path in found for part in (path, *path.rglob("*")) if part.is_file()]
            size = f"{sum(part.stat().st_size for part in inside) / 2**20:.1f} MiB"
            value = f"{len(found)} of killed processes, {size}: {', '.join(path.name for path in found[:3])}"
            yield Row(
                f"unfinished in {folder}",
                value,
                "note",
                "delete them; so does the next run that writes there",
            )


def _backbones() -> Iterator[Row]:
    from goodparts.backbones.catalogue import list_backbones

    try:
        infos = list_backbones()
    except BackboneError as error:
        path, _, advice = str(error).partition("; ")
        yield Row("backbones", path, "error", advice or "delete it and add the backbone again")
        return
    here = ("built in", "installed", "local")
    sound = [f"{info.name} ({info.status})" for info in infos if info.status in here]
    if sound:
        yield Row("backbones", ", ".join(sound))
    else:
        advice = "goodparts backbone pull resnet50, or goodparts backbone add NAME FILE"
        yield Row("backbones", "none on this machine", "error", advice)
    for info in infos:
        status, _, advice = info.status.partition(": ")
        if status == "damaged":
            advice = advice or f"goodparts backbone remove {info.name}, then add or pull it again"
            yield Row(f"backbone {info.name}", f"damaged: {info.path}", "warning", advice)
        elif status == "missing":
            yield Row(f"backbone {info.name}", "missing", "warning", advice)
    for status in ("to install", "to download"):
        rest = [info.name for info in infos if info.status == status]
        if rest:
            yield Row(status, ", ".join(rest))


def _hub(ask: bool) -> Iterator[Row]:
    endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    offline = [
        name for name in _OFFLINE_VARIABLES if os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE")
    ]
    if offline:
        yield Row("hub", f"{endpoint}: downloads are off ({offline[0]} is set)")
    elif not ask:
        yield Row("hub", f"{endpoint}: not asked")
    else:
        try:
            request = urllib.request.Request(endpoint, method="HEAD", headers={"User-Agent": "goodparts"})
            with urllib.request.urlopen(request, timeout=3):
                pass
        except urllib.error.HTTPError:  # it answered
            pass
        except (OSError, ValueError) as error:
            advice = (
                "none needed for backbones on this machine; others can be fetched elsewhere and added with "
                "`goodparts backbone add`"
            )
            yield Row("hub", f"{endpoint}: out of reach ({_first_line(error)})", "note", advice)
            return
        yield Row("hub", f"{endpoint}: within reach")


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _size(number: int) -> str:
    return f"{number / GIB:.1f} GiB"
