"""What `goodparts doctor` sees, on machines that have each of the problems."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import types
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from goodparts import doctor
from goodparts.backbones.catalogue import BackboneInfo
from goodparts.backbones.store import incoming
from goodparts.doctor import GIB, Row, examine
from goodparts.engines import openvino
from goodparts.errors import BackboneError
from goodparts.recipe.recipe import Recipe

CHECKOUT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store of its own, and no container around us."""
    monkeypatch.setenv("GOODPARTS_HOME", str(tmp_path / "home"))
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(doctor, "_CONTROL_GROUP", tmp_path / "no cgroup")
    monkeypatch.setattr(doctor, "_GRAPHICS", tmp_path / "no dri")
    return tmp_path / "home"


def by_name(rows: list[Row]) -> dict[str, Row]:
    found = {row.name: row for row in rows}
    assert len(found) == len(rows), "each row has a name of its own"
    return found


def test_a_sound_machine(home: Path) -> None:
    rows = by_name(examine())

    assert rows["Python"].value.startswith(f"{sys.version_info.major}.{sys.version_info.minor}.")
    assert "openvino " in rows["packages"].value
    assert "devices: CPU" in rows["OpenVINO"].value
    assert "FP32" in rows["device CPU"].value
    assert "logical" in rows["processor cores"].value
    assert "GiB available of" in rows["memory"].value
    assert str(home) in rows["backbone folder"].value
    assert "GOODPARTS_HOME" in rows["backbone folder"].value
    assert "not made yet" in rows["backbone folder"].value
    assert "efficientnet_lite0" in rows["backbones"].value
    assert "resnet50" in rows["to download"].value
    assert rows["hub"].value == "https://huggingface.co: not asked"
    assert not home.exists(), "looking leaves no trace"
    assert json.loads(json.dumps([dataclasses.asdict(row) for row in rows.values()]))


def test_every_problem_comes_with_advice() -> None:
    for row in examine():
        assert row.status == "ok" or row.advice, row


def test_nothing_is_sent_and_nothing_started(home: Path) -> None:
    script = (
        "import sys\n"
        "seen = []\n"
        "def watch(event, arguments):\n"
        "    if event in ('socket.getaddrinfo', 'socket.connect', 'os.fork', 'subprocess.Popen'):\n"
        "        seen.append((event, arguments))\n"
        "sys.addaudithook(watch)\n"
        "from goodparts.doctor import examine\n"
        "names = [row.name for row in examine()]\n"
        "print('telemetry' in names, seen)\n"
    )

    result = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        cwd=CHECKOUT,
        env={**os.environ, "HOME": str(home)},
    )

    assert result.stdout.strip() == "False []"


def test_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    real = doctor.version

    def version(package: str) -> str:
        if package == "safetensors":
            raise PackageNotFoundError(package)
        return real(package) if package != "goodparts" else "1.0"

    monkeypatch.setattr(doctor, "version", version)

    row = by_name(examine())["missing packages"]
    assert (row.value, row.status, row.advice) == ("safetensors", "error", "pip install safetensors")


def test_32_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.struct, "calcsize", lambda _: 4)

    row = by_name(list(doctor._python()))["Python"]
    assert row.status == "error"
    assert "64-bit" in row.advice


# ---- devices -----------------------------------------------------------------------------------------


class FakeCore:
    """An OpenVINO of which a test says what it offers."""

    devices: dict[str, tuple[str, list[str]] | None]

    @property
    def available_devices(self) -> list[str]:
        return list(self.devices)

    def get_property(self, device: str, name: str) -> Any:
        known = self.devices[device]
        if known is None:
            raise RuntimeError(f"{device} is stuck\nsecond line")
        return known[0] if name == "FULL_DEVICE_NAME" else known[1]


def fake_openvino(
    monkeypatch: pytest.MonkeyPatch, devices: dict[str, tuple[str, list[str]] | None]
) -> dict[str, Row]:
    core = FakeCore()
    core.devices = devices
    monkeypatch.setattr(openvino, "_only_core", lambda: core)
    monkeypatch.setattr(doctor, "version", lambda _: "2099.1")
    return by_name(list(doctor._devices()))


def test_devices_and_their_precisions(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = fake_openvino(
        monkeypatch,
        {
            "CPU": ("Xeon ", ["FP32", "BF16", "INT8", "BIN", "EXPORT_IMPORT"]),
            "GPU.0": ("Arc", ["FP32", "FP16"]),
            "NPU": None,
        },
    )

    assert rows["OpenVINO"].value == "2099.1, devices: CPU, GPU.0, NPU"
    assert rows["device CPU"].value == "Xeon (FP32, BF16, INT8)"
    assert rows["device GPU.0"].value == "Arc (FP32, FP16)"
    assert rows["device NPU"] == Row(
        "device NPU", "doesn't answer: NPU is stuck", "warning", "update its driver, or go on without it"
    )


def test_no_processor_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fake_openvino(monkeypatch, {})["device CPU"].status == "error"


@pytest.mark.parametrize(("system", "expected"), [("win32", "Visual C++"), ("linux", "force-reinstall")])
def test_openvino_that_can_not_be_imported(
    system: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    loaded_anew = openvino._only_core.__wrapped__  # this process may have its own already
    monkeypatch.setattr(openvino, "_only_core", loaded_anew)
    monkeypatch.setattr(doctor.sys, "platform", system)

    row = by_name(list(doctor._devices()))["OpenVINO"]
    assert row.status == "warning", "others are here"
    assert expected in row.advice
    monkeypatch.setattr(doctor, "installed", lambda name: False)
    assert by_name(list(doctor._devices()))["OpenVINO"].status == "error"


def test_engines_that_are_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = by_name(list(doctor._engines()))
    assert rows["computed by"].value.startswith("openvino on cpu, unless")
    assert rows["engine torch"].status == "ok"

    monkeypatch.setattr(doctor, "installed", lambda name: name != "torch")
    row = by_name(list(doctor._engines()))["engine torch"]
    assert (row.status, row.advice) == ("note", "pip install 'goodparts[torch]'")
    monkeypatch.setenv("GOODPARTS_DEVICE", "quantum")
    row = by_name(list(doctor._engines()))["computed by"]
    assert row.status == "error"
    assert "'quantum'" in row.value


def test_the_default_is_timed_on_each_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "Recipe", lambda: Recipe(image_size=64, sampling_limit=200))
    rows = by_name(list(doctor._timings()))
    assert {"openvino on cpu", "onnxruntime on cpu", "torch on cpu"} <= set(rows)
    assert all(row.value.endswith("ms for an image with the recipe default") for row in rows.values())


def test_telemetry_that_is_awake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "silence_openvino", lambda: False)

    assert by_name(list(doctor._devices()))["telemetry"].status == "warning"


def test_graphics_processors_that_are_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "renderD128").touch()
    monkeypatch.setattr(doctor, "_GRAPHICS", tmp_path)
    monkeypatch.setattr(doctor.os, "access", lambda *_: False)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: f"/usr/bin/{name}")

    rows = by_name(list(doctor._graphics()))
    assert "renderD128 is closed" in rows["GPU access"].value
    assert "`render`" in rows["GPU access"].advice
    assert rows["NVIDIA GPU"].status == "note"


# ---- cores and memory --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 0.5),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({}, None),
    ],
)
def test_processor_quota_of_a_container(
    files: dict[str, str], quota: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_group(tmp_path, files, monkeypatch)

    assert doctor._processor_quota() == quota


def write_group(tmp_path: Path, files: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in files.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="ascii")
    monkeypatch.setattr(doctor, "_CONTROL_GROUP", tmp_path / "cgroup")


def test_fewer_cores_than_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.psutil, "cpu_count", lambda logical=True: 16 if logical else 8)
    monkeypatch.setattr(doctor, "_usable_cores", lambda logical: 4)
    write_group(tmp_path, {"cpu.max": "200000 100000"}, monkeypatch)

    (row,) = doctor._cores()

    assert row.value == "16 logical, 8 physical, 4 usable by this process, limited to 2 by its container"
    assert row.status == "note"
    assert "--workers 2" in row.advice


class Memory(NamedTuple):
    total: int
    available: int


@pytest.mark.parametrize(
    ("total", "available", "group", "status", "value"),
    [
        (16, 8, {}, "ok", "8.0 GiB available of 16.0 GiB"),
        (16, 1, {}, "warning", "1.0 GiB available of 16.0 GiB"),
        (16, 0.25, {}, "error", "0.2 GiB available of 16.0 GiB"),
        (
            16,
            8,
            {"memory.max": f"{2 * GIB}", "memory.current": f"{GIB}"},
            "warning",
            "limited to 2.0 GiB, 1.0 GiB",
        ),
        (16, 8, {"memory/memory.limit_in_bytes": f"{GIB // 4}"}, "error", "limited to 0.2 GiB"),
        (16, 8, {"memory.max": "max"}, "ok", "8.0 GiB available of 16.0 GiB"),
        (
            16,
            8,
            {"memory/memory.limit_in_bytes": "9223372036854771712"},
            "ok",
            "8.0 GiB available of 16.0 GiB",
        ),
    ],
)
def test_memory(
    total: float,
    available: float,
    group: dict[str, str],
    status: str,
    value: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    memory = Memory(int(total * GIB), int(available * GIB))
    monkeypatch.setattr(doctor.psutil, "virtual_memory", lambda: memory)
    write_group(tmp_path, group, monkeypatch)

    (row,) = doctor._memory()

    assert row.status == status
    assert value in row.value
    assert bool(row.advice) == (status != "ok")


# ---- folders and backbones ---------------------------------------------------------------------------


def test_folder_that_can_not_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refuse)

    rows = by_name(list(doctor._folders()))
    assert "can't be written (Permission denied)" in rows["backbone folder"].value
    assert rows["backbone folder"].status == "warning"
    assert "set GOODPARTS_HOME" in rows["backbone folder"].advice
    assert rows["temporary folder"].status == "error"


@pytest.mark.parametrize(("free", "status"), [(GIB * 3, "ok"), (GIB // 2, "warning"), (GIB // 20, "error")])
def test_disk_space(free: int, status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: types.SimpleNamespace(free=free))

    for row in doctor._folders():
        assert row.status == status
        assert f"{free / GIB:.1f} GiB free" in row.value


@pytest.mark.skipif(sys.platform == "win32", reason="a kill is another thing there")
def test_what_killed_processes_left(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = (
        "import os, signal\n"
        "from goodparts.backbones.store import incoming\n"
        "with incoming() as folder:\n"
        "    (folder / 'half').write_bytes(bytes(2 ** 20))\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=False, timeout=60)
    monkeypatch.chdir(tmp_path)
    (row,) = [row for row in examine() if row.name.startswith("unfinished")]
    assert row.name == f"unfinished in {home / 'backbones'}"
    assert row.status == "note"
    assert row.value.startswith("1 of killed processes, 1.0 MiB: .goodparts-")
    with incoming():
        pass
    assert list((home / "backbones").iterdir()) == []


def test_a_store_that_is_a_file(home: Path) -> None:
    home.touch()

    row = by_name(list(doctor._folders()))["backbone folder"]
    assert row.status == "warning"
    assert "GOODPARTS_HOME" in row.advice


def test_backbones_that_need_mending(monkeypatch: pytest.MonkeyPatch) -> None:
    from goodparts.backbones import catalogue

    infos = [
        BackboneInfo(
            "efficientnet_lite0", "package", "Apache-2.0", "", None, None, "missing: pip install it"
        ),
        BackboneInfo("mine", "file", "unknown", "", 5, Path("mine.onnx"), "damaged"),
        BackboneInfo("lite2", "package", "Apache-2.0", "", 5, Path("lite2.pth"), "damaged: pip install it"),
        BackboneInfo("lite1", "package", "Apache-2.0", "", None, None, "to install"),
        BackboneInfo("resnet50", "hub", "BSD-3-Clause", "", None, None, "to download"),
    ]
    monkeypatch.setattr(catalogue, "list_backbones", lambda: infos)

    rows = by_name(list(doctor._backbones()))
    assert rows["backbones"].status == "error"
    assert rows["backbone efficientnet_lite0"].advice == "pip install it"
    assert "backbone remove mine" in rows["backbone mine"].advice
    assert rows["backbone lite2"].advice == "pip install it"
    assert rows["to install"].value == "lite1"
    assert rows["to download"].value == "resnet50"


def test_a_damaged_store(monkeypatch: pytest.MonkeyPatch) -> None:
    from goodparts.backbones import catalogue

    def damaged() -> None:
        raise BackboneError("mine.json: damaged; delete it and add the backbone again")

    monkeypatch.setattr(catalogue, "list_backbones", damaged)

    (row,) = doctor._backbones()
    assert row == Row("backbones", "mine.json: damaged", "error", "delete it and add the backbone again")


# ---- hub ---------------------------------------------------------------------------------------------


def test_hub_when_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(doctor.urllib.request, "urlopen", lambda *_, **__: pytest.fail("asked"))

    (row,) = doctor._hub(True)
    assert row.value == "https://huggingface.co: downloads are off (HF_HUB_OFFLINE is set)"


class Answer:
    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        return None


@pytest.mark.parametrize(
    ("answer", "status", "value"),
    [
        (None, "ok", "within reach"),
        (doctor.urllib.error.HTTPError("", 403, "no", None, None), "ok", "within reach"),  # type: ignore[arg-type]
        (doctor.urllib.error.URLError("no route"), "note", "out of reach (<urlopen error no route>)"),
        (TimeoutError("timed out"), "note", "out of reach (timed out)"),
    ],
)
def test_hub_when_asked(
    answer: Exception | None, status: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example")
    asked = []

    def urlopen(request: Any, timeout: float) -> Answer:
        asked.append((request.full_url, timeout))
        if answer is not None:
            raise answer
        return Answer()

    monkeypatch.setattr(doctor.urllib.request, "urlopen", urlopen)

    (row,) = doctor._hub(True)

    assert (row.status, row.value) == (status, f"https://mirror.example: {value}")
    assert asked == [("https://mirror.example", 3)]
