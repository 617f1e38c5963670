"""Signatures: who vouches for a model, and that nothing of it was changed since."""

from __future__ import annotations

import json
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from running import Run

from goodparts import Inspector
from goodparts.errors import ModelError, OutputError
from goodparts.model import file, signature


@pytest.fixture
def key(tmp_path: Path) -> Path:
    signature.new_key(tmp_path / "keys" / "release.pem")
    return tmp_path / "keys" / "release.pem"


@pytest.fixture
def signed(fitted_file: Path, key: Path, tmp_path: Path) -> Path:
    return file.sign(fitted_file, key, tmp_path / "signed.goodparts")


def changed(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest of a model."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    manifest = json.loads(members["manifest.json"])
    change(manifest)
    members["manifest.json"] = json.dumps(manifest).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def test_a_signed_model_is_the_same_model(signed: Path, key: Path, fitted: Inspector) -> None:
    loaded = Inspector.load(signed, require_signature=key.with_suffix(".pub"))
    assert loaded.model.identity == fitted.model.identity
    assert Inspector.load(signed).model.identity == fitted.model.identity
    if sys.platform != "win32":
        assert key.stat().st_mode & 0o077 == 0


def test_what_is_not_signed_or_by_another_is_refused(
    fitted_file: Path, signed: Path, key: Path, tmp_path: Path
) -> None:
    public = key.with_suffix(".pub")
    with pytest.raises(ModelError, match="is not signed; expected a signature by the key of"):
        Inspector.load(fitted_file, require_signature=public)
    other = signature.new_key(tmp_path / "other.pem")
    with pytest.raises(ModelError, match="is signed by another key"):
        Inspector.load(signed, require_signature=other)
    again = Inspector.load(signed).save(tmp_path / "again")
    with pytest.raises(ModelError, match="is not signed"):
        Inspector.load(again, require_signature=public)


@pytest.mark.parametrize(
    "change",
    [
        lambda manifest: manifest["sha256"].update({"recipe.toml": "0" * 64}),
        lambda manifest: manifest.update({"identity": "0" * 64}),
        lambda manifest: manifest["circumstances"].update({"fitted": "2020-01-01T00:00:00+00:00"}),
        lambda manifest: manifest.update({"signature": "0" * 128}),
    ],
    ids=["member", "identity", "date", "signature"],
)
def test_what_was_changed_since_is_refused(
    signed: Path, key: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    changed(signed, change)
    with pytest.raises(ModelError, match="its signature does not fit: the model was changed"):
        Inspector.load(signed, require_signature=key.with_suffix(".pub"))


def test_keys_are_told_apart_and_never_overwritten(signed: Path, key: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"release\.pem"):
        signature.new_key(key)
    with pytest.raises(ModelError, match="expected a public Ed25519 key"):
        Inspector.load(signed, require_signature=key)
    with pytest.raises(ModelError, match="expected a private Ed25519 key"):
        file.sign(signed, key.with_suffix(".pub"))
    with pytest.raises(ModelError, match="no such key"):
        file.sign(signed, tmp_path / "nowhere.pem")


def test_a_public_key_that_is_there_is_the_one_named(tmp_path: Path) -> None:
    (tmp_path / "release.pub").write_text("another's")
    with pytest.raises(OutputError, match=r"release\.pub"):
        signature.new_key(tmp_path / "release.pem")
    assert [path.name for path in tmp_path.iterdir()] == ["release.pub"]


def test_a_model_without_a_suffix_is_signed_in_place(fitted_file: Path, key: Path, tmp_path: Path) -> None:
    bare = Path(shutil.copy(fitted_file, tmp_path / "part"))
    assert file.sign(bare, key) == bare
    assert not bare.with_suffix(".goodparts").exists()
    Inspector.load(bare, require_signature=key.with_suffix(".pub"))


def test_without_the_package_it_is_said_what_to_install(
    fitted_file: Path, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.asymmetric.ed25519", None)
    with pytest.raises(ModelError, match=r"pip install 'goodparts\[sign\]'"):
        Inspector.load(fitted_file, require_signature=key)


def test_on_the_command_line(goodparts: Run, fitted_file: Path, mini_dataset: Path, tmp_path: Path) -> None:
    model = tmp_path / "part.goodparts"
    shutil.copy(fitted_file, model)
    assert goodparts("sign", "--new-key", tmp_path / "k.pem").code == 0
    image = mini_dataset / "test" / "good" / "000.png"
    inspect = ("inspect", model, image, "--require-signature", tmp_path / "k.pub")
    ran = goodparts(*inspect)
    assert (ran.code, "is not signed" in ran.err) == (2, True)
    assert "signed by" in goodparts("sign", model, "--key", tmp_path / "k.pem").out
    assert goodparts(*inspect).code == 0
    assert goodparts("sign", model).code == 2
