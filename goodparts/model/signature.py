"""Signatures of model files: Ed25519, over all that `manifest.json` says, and so over every member.

    new_key("release.pem")                                     # and release.pub, for those who check
    signed = sign(manifest, "release.pem")                     # the manifest with `signature` and `signed_by`
    require(path, signed, "release.pub")                       # ModelError unless that key signed just this

A signature is no part of the identity. Needs the package `cryptography`, the extra `sign`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from goodparts.errors import ModelError
from goodparts.files import output_error

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

_KEYS = ("signature", "signed_by")  # in a manifest
_PURPOSE = b"goodparts model\n"  # so that what the same key signs elsewhere is no signature of a model
_LARGEST = 10_000  # bytes of a file with a key
_OWNER, _EVERYBODY = 0o600, 0o644


def new_key(path: str | Path) -> Path:
    """Write a new private key, which only its owner may read where the system can do that, and `.pub` beside it.

    Returns:
        The path of the public key.

    Raises:
        OutputError: one of the two is there already, or can't be written.
        ModelError: `cryptography` is not installed.
    """
    _require_package()
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    path = Path(path)
    public = path.with_suffix(".pub") if path.name else path
    private = Ed25519PrivateKey.generate()
    pem = serialization.Encoding.PEM
    texts = {
        path: private.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
        public: private.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo),
    }
    if len(texts) < 2:
        raise ModelError(
            f"{path}: expected a name for the private key, such as release.pem; .pub is the public one's"
        )
    made: list[Path] = []
    try:
        for place, text in texts.items():
            place.parent.mkdir(parents=True, exist_ok=True)
            _write_new(place, text, _OWNER if place == path else _EVERYBODY, made)
    except BaseException as error:
        for written in made:
            written.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise output_error(place, error) from error
        raise
    return public


def sign(manifest: Mapping[str, Any], key: str | os.PathLike[str]) -> dict[str, Any]:
    """A manifest with a signature by the private key in a PEM file, in place of another, if there was one.

    Raises:
        ModelError: there is no such key, or `cryptography` is not installed.
    """
    private = _private_key(Path(key))
    return {
        **{name: value for name, value in manifest.items() if name not in _KEYS},
        "signature": private.sign(_signed_bytes(manifest)).hex(),
        "signed_by": _in_hex(private.public_key()),
    }


def require(path: Path, manifest: Mapping[str, Any], key: str | os.PathLike[str]) -> None:
    """Raise ModelError unless a manifest, that of the model at `path`, is signed by the key whose public half this is.

    Raises:
        ModelError: it is unsigned, signed by another key, or not what was signed; there is no such public key; or
            `cryptography` is not installed.
    """
    public = _public_key(Path(key))
    from cryptography.exceptions import InvalidSignature

    expected = _in_hex(public)
    if any(name not in manifest for name in _KEYS):
        raise ModelError(
            f"{path}: is not signed; expected a signature by the key of {key} ({expected[:12]}); take the signed file, "
            f"or sign this one, if you trust it: goodparts sign {path} --key KEY.pem"
        )
    if manifest["signed_by"] != expected:
        raise ModelError(
            f"{path}: is signed by another key ({manifest['signed_by'][:12]}); expected that of {key} "
            f"({expected[:12]}); take the right file, or the public key of who signed it, if you trust them"
        )
    try:
        public.verify(bytes.fromhex(manifest["signature"]), _signed_bytes(manifest))
    except InvalidSignature:
        raise ModelError(
            f"{path}: its signature does not fit: the model was changed after it was signed; expected it as the "
            f"key of {key} signed it; get it anew from who signed it"
        ) from None


def _signed_bytes(manifest: Mapping[str, Any]) -> bytes:
    """All that a manifest says but its signature: identity, sha256 of every member, and the rest, in one spelling."""
    bound = {name: value for name, value in manifest.items() if name not in _KEYS}
    return _PURPOSE + json.dumps(bound, sort_keys=True, separators=(",", ":")).encode()


def _private_key(path: Path) -> Ed25519PrivateKey:
    _require_package()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    advice = "make one with `goodparts sign --new-key KEY.pem`"
    try:
        key = load_pem_private_key(_read(path, advice), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise ModelError(f"{path}: expected a private Ed25519 key in PEM, without a password; {advice}")
    return key


def _public_key(path: Path) -> Ed25519PublicKey:
    _require_package()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    advice = "`goodparts sign --new-key KEY.pem` writes one, KEY.pub, beside the private key"
    try:
        key = load_pem_public_key(_read(path, advice))
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise ModelError(f"{path}: expected a public Ed25519 key in PEM; {advice}")
    return key


def _in_hex(key: Ed25519PublicKey) -> str:
    return key.public_bytes_raw().hex()


def _read(path: Path, advice: str) -> bytes:
    try:
        if path.exists() and not path.is_file():
            raise ModelError(f"{path}: is no file; expected a key in PEM; {advice}")
        with path.open("rb") as stream:
            return stream.read(_LARGEST)
    except FileNotFoundError:
        raise ModelError(f"{path}: no such key; {advice}") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: can't be read: {getattr(error, 'strerror', None) or error}") from None


def _write_new(path: Path, text: bytes, mode: int, made: list[Path]) -> None:
    """Write a file that must not be there yet, with its mode from the first moment on."""
    with open(path, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as stream:
        made.append(path)
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


def _require_package() -> None:
    try:
        import cryptography.hazmat.primitives.asymmetric.ed25519  # noqa: F401
    except ImportError:
        raise ModelError(
            "signatures need the package `cryptography`, which is not installed: pip install 'goodparts[sign]'"
        ) from None
