"""Packages sealed at rest: the model's bytes under AES-256-GCM, opened in memory only. ``cryptography`` is imported where it is used.

    model.onnx.sealed    12 bytes of nonce, then the ciphertext with its tag; the authenticated data are those of ``_CONTEXT``

``package.json`` stays readable (labels, schema, metrics); it names the key by the first 16 hex digits of a digest of it. The nonce is
derived from key and content, so the same model under the same key gives the same bytes, and no nonce serves two contents.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from algorithms._package_format import DESCRIPTION_FILE, MODEL_FILE, SEALED_FILE, read_description, write_description
from infra.errors import CorruptArtifactError, InvalidSettingError, MissingExtraError

VARIABLE = "ATELIER_PACKAGE_KEY"
_KEY_BYTES, _NONCE_BYTES = 32, 12
_CONTEXT = b"atelier package model 1"


def read_key(text: str) -> bytes:
    """The key of a setting: 32 bytes as base64.

    Raises:
        InvalidSettingError: it is something else; the text itself is not told.
    """
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != _KEY_BYTES:
        hint = "python -c 'import base64, os; print(base64.b64encode(os.urandom(32)).decode())' makes one"
        raise InvalidSettingError([f"package_key: expected {_KEY_BYTES} bytes as base64; {hint}"])
    return key


def find_key() -> bytes | None:
    """The key of this process' settings, if there is one; where pydantic is not installed the variable alone counts."""
    text = os.environ.get(VARIABLE, "")
    if not text:
        try:
            from infra.settings import load_settings
        except ImportError:  # a device that has only onnxruntime
            return None
        text = load_settings().package_key.get_secret_value()
    return read_key(text) if text else None


def key_id(key: bytes) -> str:
    """What tells keys apart without telling them."""
    return hashlib.sha256(b"atelier key id" + key).hexdigest()[:16]


def _cipher(key: bytes) -> Any:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError:
        raise MissingExtraError("cryptography") from None
    return AESGCM(key)


def seal(model: bytes, key: bytes) -> bytes:
    """Encrypt a model."""
    nonce = hmac.new(key, _CONTEXT + model, hashlib.sha256).digest()[:_NONCE_BYTES]
    sealed: bytes = _cipher(key).encrypt(nonce, model, _CONTEXT)
    return nonce + sealed


def seal_package(folder: Path, target: Path, key: bytes) -> None:
    """Write a copy of a package whose model is sealed; one that is sealed already is copied as it is."""
    description = read_description(folder)
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and name.as_posix() not in (MODEL_FILE, DESCRIPTION_FILE, "MANIFEST.json"):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target / name)
    if "sealed" in description:
        shutil.copyfile(folder / DESCRIPTION_FILE, target / DESCRIPTION_FILE)
        return
    (target / SEALED_FILE).write_bytes(seal((folder / MODEL_FILE).read_bytes(), key))
    kept = {name: value for name, value in description.items() if name != "files"}
    write_description(target, {**kept, "sealed": {"cipher": "AES-256-GCM", "key": key_id(key)}})


def seal_in_place(folder: Path, key: bytes) -> None:
    """Put the sealed model into a package's folder in place of the plain one; a package that is sealed already stays as it is."""
    description = read_description(folder)
    if "sealed" in description:
        return
    (folder / SEALED_FILE).write_bytes(seal((folder / MODEL_FILE).read_bytes(), key))
    names = {SEALED_FILE, *description["files"]} - {MODEL_FILE}
    kept = {name: value for name, value in description.items() if name != "files"}
    write_description(folder, {**kept, "sealed": {"cipher": "AES-256-GCM", "key": key_id(key)}}, names)
    (folder / MODEL_FILE).unlink()


def plain_model(folder: Path) -> bytes:
    """The model's bytes, opened if they are sealed.

    Raises:
        InvalidSettingError, CorruptArtifactError: see ``model_source``.
    """
    source = model_source(folder, read_description(folder))
    return source if isinstance(source, bytes) else source.read_bytes()


def model_source(folder: Path, description: Mapping[str, Any], key: bytes | None = None) -> Path | bytes:
    """What onnxruntime opens: the model's file, or its bytes if it is sealed.

    Args:
        key: None: that of the settings.

    Raises:
        InvalidSettingError: it is sealed, and there is no key or another one.
        CorruptArtifactError: the sealed bytes were changed.
    """
    sealed = description.get("sealed")
    if sealed is None:
        return folder / MODEL_FILE
    key = key or find_key()
    if key is None:
        raise InvalidSettingError([f"package_key: the package {folder} is sealed; set {VARIABLE} to the key that it was sealed with"])
    if key_id(key) != sealed.get("key"):
        raise InvalidSettingError(
            [f"package_key: the package {folder} is sealed with the key {sealed.get('key')}, this one is {key_id(key)}"]
        )
    data = (folder / SEALED_FILE).read_bytes()
    from cryptography.exceptions import InvalidTag

    try:
        model: bytes = _cipher(key).decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], _CONTEXT)
    except (InvalidTag, ValueError):
        found = hashlib.sha256(data).hexdigest()
        raise CorruptArtifactError(str(folder / SEALED_FILE), "of what was sealed with this key", found) from None
    return model
