"""Downloads of backbones, from a hub that runs on this machine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from small_networks import small_resnet

from goodparts.backbones import catalogue
from goodparts.backbones.catalogue import load_backbone
from goodparts.errors import BackboneError

COMMIT = "0123456789abcdef0123456789abcdef01234567"

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture(scope="session")
def resnet34_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """layer1 and layer2 of a ResNet-34, 2.7 MB."""
    from safetensors.numpy import save_file

    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_file(small_resnet((3, 4)), path)
    return path


@dataclass
class Hub:
    """A server that speaks as much of the hub's protocol as a download asks for."""

    url: str
    files: dict[str, bytes] = field(default_factory=dict)
    etags: dict[str, str] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    breaks_off: bool = False


@pytest.fixture
def hub() -> Iterator[Hub]:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, *, body: bool) -> None:
            state.requests.append(f"{self.command} {self.path}")
            repository, _, rest = self.path.lstrip("/").partition("/resolve/")
            content = state.files.get(repository)
            if content is None or rest not in ("main/model.safetensors", f"{COMMIT}/model.safetensors"):
                self.send_response(404)
                self.send_header("X-Error-Code", "RepoNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if state.breaks_off and body and state.requests.count(f"GET {self.path}") > 1:
                self.send_response(500)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(200)
            etag = state.etags.get(repository, sha256(content).hexdigest())
            self.send_header("ETag", f'"{etag}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if body:
                self.wfile.write(content[: len(content) // 2] if state.breaks_off else content)
                self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state = Hub(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield state
    server.shutdown()
    thread.join()
    server.server_close()


SCRIPT = """
import json, sys
from goodparts.backbones import store as backbone_store, catalogue as backbones
from goodparts.errors import BackboneError
from dataclasses import replace
name, pin = sys.argv[1:3]
if pin:
    backbone_store.PUBLISHED[name] = replace(backbone_store.PUBLISHED[name], sha256=pin)
try:
    found = backbones.load_backbone(name, offline="offline" in sys.argv)
    keys = ("name", "source", "licence", "sha256", "normalisation")
    print(json.dumps([*(getattr(found, key) for key in keys), found.layers()[0]]))
except BackboneError as error:
    print(json.dumps(str(error)))
"""


def load_in_new_process(
    name: str, endpoint: str, *options: str, pin: str = "", offline: bool = False, quiet: bool = True
) -> Any:
    """What `load_backbone` gives where the hub is at `endpoint`, which its library reads when imported."""
    environment = os.environ | {
        "HF_ENDPOINT": endpoint,
        "HF_HUB_OFFLINE": "1" if offline else "0",
        "NO_PROXY": "127.0.0.1",
        "PYTHONPATH": str(Path(catalogue.__file__).parents[2]),
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, name, pin, *options],
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not quiet or done.stderr == "", "progress bars and warnings where nobody looks"
    return json.loads(done.stdout)


def test_download_once(hub: Hub, home: Path, resnet34_file: Path) -> None:
    hub.files["timm/resnet34.tv_in1k"] = resnet34_file.read_bytes()
    digest = sha256(resnet34_file.read_bytes()).hexdigest()
    source = f"Hugging Face timm/resnet34.tv_in1k, revision {COMMIT}"
    expected = ["resnet34", source, "BSD-3-Clause", digest, "published", "layer1"]
    assert load_in_new_process("resnet34", hub.url) == expected
    assert {request.split()[1] for request in hub.requests} <= {
        "/timm/resnet34.tv_in1k/resolve/main/model.safetensors",
        f"/timm/resnet34.tv_in1k/resolve/{COMMIT}/model.safetensors",
    }
    assert sorted(path.suffix for path in home.iterdir()) == [".json", ".safetensors"]
    hub.requests.clear()
    backbone = load_backbone("resnet34", offline=True)
    assert [backbone.name, backbone.source, backbone.licence] == expected[:3]
    assert catalogue.pull("resnet34").status == "local"
    assert hub.requests == []


@pytest.mark.parametrize(
    ("name", "served_for", "etag", "pin", "message"),
    [
        ("resnet34", "resnet34", "f" * 64, "", "is not the file that was published: SHA-256"),
        ("resnet18", "resnet18", "", "", "is not the file that was published: SHA-256"),
        ("resnet101", "resnet101", "", "", r"timm/resnet101\.tv_in1k holds resnet34 instead"),
        (
            "resnet50",
            "",
            "",
            "",
            r"could not be downloaded from http://127.*resolve/main.*backbone add resnet50 FILE",
        ),
    ],
)
def test_wrong_downloads_leave_nothing_behind(
    hub: Hub, home: Path, resnet34_file: Path, name: str, served_for: str, etag: str, pin: str, message: str
) -> None:
    if served_for:
        hub.files[f"timm/{served_for}.tv_in1k"] = resnet34_file.read_bytes()
    if etag:
        hub.etags[f"timm/{served_for}.tv_in1k"] = etag
    found = load_in_new_process(name, hub.url, pin=pin)
    assert isinstance(found, str)
    with pytest.raises(BackboneError, match=message):
        raise BackboneError(found)
    assert list(home.iterdir()) == []


def test_page_instead_of_a_model(hub: Hub, home: Path) -> None:
    hub.files["timm/resnet34.tv_in1k"] = b"<html>please sign in</html>" * 9
    found = load_in_new_process("resnet34", hub.url)
    assert "model.safetensors: can't be read as a safetensors file" in found
    assert list(home.iterdir()) == []


def test_broken_off_download(hub: Hub, home: Path, resnet34_file: Path) -> None:
    hub.files["timm/resnet34.tv_in1k"] = resnet34_file.read_bytes()
    hub.breaks_off = True
    found = load_in_new_process("resnet34", hub.url, quiet=False)
    assert "resnet34 could not be downloaded" in found
    assert "https://huggingface.co/timm/resnet34.tv_in1k/resolve/main/model.safetensors" in found
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("way", ["argument", "variable", "no server"])
def test_without_a_network(home: Path, way: str) -> None:
    options = ["offline"] if way == "argument" else []
    found = load_in_new_process("resnet50", "http://127.0.0.1:9", *options, offline=way == "variable")
    reason = (
        "could not be downloaded" if way == "no server" else "is not on this machine, and downloads are off"
    )
    assert reason in found
    assert "https://huggingface.co/timm/resnet50.tv_in1k/resolve/main/model.safetensors" in found
    assert "`goodparts backbone add resnet50 FILE`" in found
    assert "efficientnet_lite0, which needs no download" in found
    assert list(home.iterdir()) == []


def test_the_hubs_own_cache_is_used(tmp_path: Path, resnet34_file: Path) -> None:
    repository = tmp_path / "hub" / "hub" / "models--timm--resnet34.tv_in1k"
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    shutil.copyfile(resnet34_file, snapshot / "model.safetensors")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT, encoding="utf-8")
    found = load_in_new_process("resnet34", "http://127.0.0.1:9", offline=True)
    assert found[1] == f"Hugging Face timm/resnet34.tv_in1k, revision {COMMIT}"
    assert (snapshot / "model.safetensors").is_file()
