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
from small_networks import small_resnet, small_transformer

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


# ---- vision transformers, and licences that have to be accepted


@pytest.mark.parametrize(
    ("name", "repository", "keys", "size"),
    [
        ("dinov2_vits14", "timm/vit_small_patch14_dinov2.lvd142m", {}, 84),
        ("dinov2_vits14_reg", "timm/vit_small_patch14_reg4_dinov2.lvd142m", {"registers": 4}, 84),
        (
            "dinov3_vits16",
            "timm/vit_small_patch16_dinov3.lvd1689m",
            {"patch": 16, "registers": 4, "rotary": True},
            96,
        ),
    ],
)
def test_the_whole_way_of_a_transformer(
    hub: Hub,
    home: Path,
    mini_dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    repository: str,
    keys: dict[str, Any],
    size: int,
) -> None:
    """From the hub into the store, fitted, inspected, saved, exported and run by ONNX Runtime; random weights."""
    import numpy as np
    import onnxruntime
    from PIL import Image
    from safetensors.numpy import save

    from goodparts import Inspector, Recipe

    content = save(small_transformer(**keys))
    hub.files[repository] = content
    monkeypatch.setenv("GOODPARTS_ACCEPTED_LICENCES", "DINOv3")
    licence = "DINOv3" if "dinov3" in name else "Apache-2.0"
    source = f"Hugging Face {repository}, revision {COMMIT}"
    found = load_in_new_process(name, hub.url)
    assert found == [name, source, licence, sha256(content).hexdigest(), "published", "block1"]

    recipe = Recipe(backbone=name, image_size=size, precision="f32", sampling_limit=200)
    inspector = Inspector(recipe).fit(mini_dataset)
    assert inspector.recipe.layers == ("norm",)
    path = sorted((mini_dataset / "test" / "stain").iterdir())[0]
    working = np.asarray(Image.open(path).convert("RGB").resize((size, size)))
    score = inspector.inspect(working).score
    again = Inspector.load(inspector.save(tmp_path / "disc.goodparts"))
    assert again.inspect(working).score == score
    assert again.model.backbone.licence == licence
    session = onnxruntime.InferenceSession(
        again.export(tmp_path / "disc.onnx").read_bytes(), providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    outputs = dict(zip(names, session.run(None, {"image": working[None]}), strict=True))
    assert outputs["score"][0] == pytest.approx(score, rel=1e-3)

    with pytest.raises(BackboneError, match=r"^image_size: 100x100 is not filled .* take "):
        Inspector(recipe.replace({"image_size": 100})).fit(mini_dataset)


def test_the_preset_dino_measures_by_the_cosine(
    home: Path, mini_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its image score, against AnomalyDINO's computed from tokens: sqrt(2 - 2 cosine), mean of the largest 1 %."""
    import numpy as np
    from PIL import Image
    from safetensors.numpy import save_file
    from small_networks import run

    from goodparts import Inspector, Recipe
    from goodparts.backbones.backbone import trim

    save_file(small_transformer(depth=1), tmp_path / "dino.safetensors")
    catalogue.add("dinov2_vits14", tmp_path / "dino.safetensors")
    recipe = Recipe.preset("dino").replace({"image_size": 154, "precision": "f32", "search_dimensions": 0})
    good = sorted((mini_dataset / "train" / "good").iterdir())[:4]
    inspector = Inspector(recipe).fit(good)
    network = trim(load_backbone("dinov2_vits14"), ["norm"])

    def tokens(path: Path) -> Any:
        pixels = np.asarray(Image.open(path).convert("RGB").resize((154, 154), Image.Resampling.BILINEAR))
        normalised = (pixels / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
        (found,) = run(network, normalised.transpose(2, 0, 1)[None].astype(np.float32))
        patches = found[0, 1:].astype(np.float64)
        return patches / np.linalg.norm(patches, axis=1, keepdims=True)

    bank = np.concatenate([tokens(path) for path in good])
    for path in sorted((mini_dataset / "test" / "scratch").iterdir()):
        distances = np.sqrt(np.maximum(0, 2 - 2 * (tokens(path) @ bank.T).max(axis=1)))
        expected = np.sort(distances)[-2:].mean()  # 1 % of 121 patches, rounded up
        assert inspector.inspect(path).score == pytest.approx(expected, rel=1e-3)


def test_a_licence_of_its_own_is_accepted_first(
    hub: Hub, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.numpy import save

    hub.files["timm/vit_small_patch16_dinov3.lvd1689m"] = save(
        small_transformer(patch=16, registers=4, rotary=True, depth=1)
    )
    for accepted in ("", "Apache-2.0"):
        monkeypatch.setenv("GOODPARTS_ACCEPTED_LICENCES", accepted)
        found = load_in_new_process("dinov3_vits16", hub.url)
        assert "under the DINOv3 licence, which is no open-source licence. Read it (https://ai.meta" in found
        assert "`goodparts backbone pull dinov3_vits16 --accept-licence`" in found
    assert hub.requests == []
    assert not home.exists()
    with pytest.raises(BackboneError, match="downloads are off"):  # no longer the licence
        catalogue.pull("dinov3_vits16", offline=True, accept_licence=True)
    monkeypatch.setenv("GOODPARTS_ACCEPTED_LICENCES", "Apache-2.0, DINOv3")
    assert load_in_new_process("dinov3_vits16", hub.url)[2] == "DINOv3"
    monkeypatch.delenv("GOODPARTS_ACCEPTED_LICENCES")
    assert load_backbone("dinov3_vits16").licence == "DINOv3"  # once is enough
    assert catalogue.pull("dinov3_vits16").licence == "DINOv3"


def test_another_transformer_than_its_name_says(hub: Hub, home: Path) -> None:
    from safetensors.numpy import save

    hub.files["timm/vit_base_patch14_dinov2.lvd142m"] = save(small_transformer(depth=1))
    found = load_in_new_process("dinov2_vitb14", hub.url)
    assert "timm/vit_base_patch14_dinov2.lvd142m holds vit_small_patch14 instead" in found
    assert list(home.iterdir()) == []
