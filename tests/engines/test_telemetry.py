"""OpenVINO runs without telling anybody."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]

# Runs in a process of its own: nothing that was imported there can be made undone.
WATCHED = """
import sys

seen = []

def watch(event, arguments):
    if event in ("socket.getaddrinfo", "socket.connect", "os.fork", "os.posix_spawn", "subprocess.Popen"):
        seen.append((event, arguments))

sys.addaudithook(watch)
from goodparts.engines.telemetry import silence_openvino

silent = silence_openvino()
import openvino

openvino.Core().available_devices
print(silent, seen)
"""


def run(script: str, home: Path) -> str:
    environment = {**os.environ, "HOME": str(home), "USERPROFILE": str(home), "APPDATA": str(home)}
    environment.pop("CI", None)  # where it would be silent by itself
    result = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        cwd=CHECKOUT,
        env=environment,
    )
    return result.stdout.strip()


def test_openvino_starts_nothing_and_writes_nothing(tmp_path: Path) -> None:
    assert run(WATCHED, tmp_path) == "True []"
    assert list(tmp_path.rglob("*ga_cid*")) == []


def test_telemetry_that_was_imported_before_is_told(tmp_path: Path) -> None:
    # A stand-in: the real one must not be woken by a test.
    script = (
        "import sys, types; sys.modules['openvino_telemetry'] = types.ModuleType('openvino_telemetry')\n"
        "from goodparts.engines.telemetry import silence_openvino; print(silence_openvino())"
    )

    assert run(script, tmp_path) == "False"


def test_a_command_does_without_openvinos_converter_and_a_library_leaves_it_there(tmp_path: Path) -> None:
    asked = "import openvino; print('openvino.tools.ovc.convert' in sys.modules, hasattr(openvino, 'convert_model'))"
    command = "import sys; from goodparts.engines.telemetry import without_converter; without_converter(); "

    assert run(command + asked, tmp_path) == "False False"
    assert run(f"import sys, goodparts.inspector; {asked}", tmp_path) == "True True"
