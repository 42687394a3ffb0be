"""A store in a bucket of S3 or of a server that speaks its protocol, through s3fs.

s3fs is the transport: credentials, signing, connections, one event loop in a thread of its own. Retries, part sizes and errors are ours,
because a whole file must not fail for one of its many requests.
"""

from __future__ import annotations

import asyncio
import io
import logging
import os
import random
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeVar

import aiohttp
import botocore.exceptions as boto
import s3fs
from fsspec.asyn import sync
from fsspec.exceptions import FSTimeoutError

from infra._files import check_key, published_file
from infra.errors import ArtifactNotFoundError, AtelierError, StoreAccessError, StoreUnavailableError

PART_BYTES = 16 << 20
TRIES = 7
FIRST_WAIT_S = 0.1  # then twice as long each time: about 10 s in all
_PARALLEL = 4
_CREATOR = "atelier-creator"  # metadata of an object that was made by ``create``
_LISTED = 1000  # keys in a page, the most that S3 gives and takes
_log = logging.getLogger("atelier.store")

_Fault = Literal["missing", "exists", "out of range", "access", "transient"]
_FAULTS: tuple[type[Exception], ...] = (
    OSError, boto.BotoCoreError, boto.ClientError, aiohttp.ClientError, asyncio.TimeoutError, FSTimeoutError, ValueError,
)  # fmt: skip
_ACCESS = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.CredentialRetrievalError,
    boto.ProfileNotFound,
    boto.ParamValidationError,
    boto.NoRegionError,
    boto.UnknownServiceError,
    ValueError,  # "Invalid endpoint: ..."
)
_TRANSIENT_CODES = frozenset(
    (
        "InternalError", "SlowDown", "ServiceUnavailable", "RequestTimeout", "ThrottlingException", "Throttling", "TooManyRequests",
        "ConditionalRequestConflict", "OperationAborted", "XAmzContentSHA256Mismatch", "BadDigest",
    )
)  # fmt: skip
T = TypeVar("T")

_clients: dict[tuple[Any, ...], s3fs.S3FileSystem] = {}
_clients_lock = threading.Lock()


def _renew_lock() -> None:
    global _clients_lock
    _clients_lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)


def _client() -> s3fs.S3FileSystem:
    """The s3fs of this process (its event loop does not survive a fork) and of these AWS settings."""
    settings = tuple(sorted((name, value) for name, value in os.environ.items() if name.startswith("AWS_")))
    with _clients_lock:
        key = (os.getpid(), settings)
        if key not in _clients:
            endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
            own = bool(endpoint) and "amazonaws.com" not in str(endpoint)
            region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
            fs = s3fs.S3FileSystem(
                skip_instance_cache=True,
                endpoint_url=endpoint,
                client_kwargs={"region_name": region} if region else {},
                config_kwargs={
                    "retries": {"total_max_attempts": 1, "mode": "standard"},
                    "connect_timeout": 10,
                    "read_timeout": 60,
                    "max_pool_connections": 32,
                    "s3": {"addressing_style": "path"} if own else {},  # few servers answer at bucket.host
                    # Checksums by default are not understood everywhere; every artifact is verified by SHA-256 anyhow.
                    "request_checksum_calculation": "when_required",
                    "response_checksum_validation": "when_required",
                },
            )
            fs.retries = 1
            _clients[key] = fs
        return _clients[key]


class S3Store:
    """Objects below a prefix of a bucket. An object is visible when it is whole; large ones go up in parts."""

    def __init__(self, uri: str) -> None:
        self._uri = uri.rstrip("/")
        bucket, _, prefix = self._uri.partition("://")[2].partition("/")
        self._bucket, self._prefix = bucket, prefix.strip("/") + "/" if prefix.strip("/") else ""

    @property
    def uri(self) -> str:
        return self._uri

    def __repr__(self) -> str:
        return f"S3Store({self._uri!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return S3Store, (self._uri,)

    def _key(self, key: str) -> str:
        return self._prefix + check_key(key)

    def _call(self, method: str, key: str, allow: tuple[_Fault, ...] = (), **kwargs: Any) -> dict[str, Any] | _Fault:
        """One request, tried several times; its answer (with ``Body`` read), or the fault if it is one of ``allow``."""
        return self._retry(lambda attempt: _request(method, Bucket=self._bucket, **kwargs), key, allow)

    def _retry(self, action: Callable[[int], T], key: str, allow: tuple[_Fault, ...] = ()) -> T | _Fault:
        for attempt in range(TRIES):
            try:
                return action(attempt)
            except AtelierError:
                raise
            except _FAULTS as error:
                fault, why = classify(error)
                if fault in allow:
                    return fault
                if fault == "missing":
                    raise ArtifactNotFoundError(self._uri, key) from error
                if fault != "transient":
                    raise StoreAccessError(self._uri, why, _hint(why)) from error
                if attempt == TRIES - 1:
                    raise StoreUnavailableError(self._uri, why) from error
                _log.debug("%s: try %d of %d failed: %s", self._uri, attempt + 1, TRIES, why)
                time.sleep(FIRST_WAIT_S * 2**attempt * random.uniform(0.5, 1.0))
        raise AssertionError("the last try returns or raises")

    def read_bytes(self, key: str) -> bytes:
        answer = self._call("get_object", key, Key=self._key(key))
        assert isinstance(answer, dict)
        return answer["Body"]

    def _read_range(self, key: str, start: int, stop: int, etag: str | None = None) -> tuple[bytes, int, str]:
        """Bytes ``start`` to ``stop`` (fewer at the end), the object's size and its ETag."""
        extra: dict[str, Any] = {"IfMatch": etag} if etag else {}
        answer = self._call("get_object", key, ("out of range",), Key=self._key(key), Range=f"bytes={start}-{stop - 1}", **extra)
        if not isinstance(answer, dict):
            return b"", start, etag or ""
        stated = re.fullmatch(r"bytes \d+-\d+/(\d+)", answer.get("ContentRange", ""))
        return answer["Body"], int(stated[1]) if stated else len(answer["Body"]), answer.get("ETag", "")

    def open(self, key: str) -> BinaryIO:
        return io.BufferedReader(_Ranges(self, key, self.size(key)), buffer_size=1 << 20)

    def write_bytes(self, key: str, data: bytes) -> None:
        self._call("put_object", key, Key=self._key(key), Body=data)

    def create(self, key: str, data: bytes) -> bool:
        name, mine = self._key(key), uuid.uuid4().hex
        metadata = {_CREATOR: mine}
        answer = self._call("put_object", key, ("exists",), Key=name, Body=data, IfNoneMatch="*", Metadata=metadata)
        if answer != "exists":
            return True
        # It may be our own: put by a try whose answer was lost. (The HTTP client repeats a PUT by itself, so that faults need not show here.)
        there = self._call("head_object", key, ("missing",), Key=name)
        return isinstance(there, dict) and there.get("Metadata", {}).get(_CREATOR) == mine

    def put_file(self, path: Path, key: str) -> None:
        size = path.stat().st_size
        if size <= PART_BYTES:
            return self.write_bytes(key, path.read_bytes())
        name = self._key(key)
        begun = self._call("create_multipart_upload", key, Key=name)
        assert isinstance(begun, dict)
        upload: dict[str, Any] = {"Key": name, "UploadId": begun["UploadId"]}
        part_bytes = max(PART_BYTES, -(-size // 9_000))  # S3 allows 10,000 parts
        try:
            with ThreadPoolExecutor(_PARALLEL) as pool:
                put = partial(self._put_part, path, key, upload, part_bytes)
                parts = list(pool.map(put, range(-(-size // part_bytes))))
            answer = self._call("complete_multipart_upload", key, ("missing",), MultipartUpload={"Parts": parts}, **upload)
            if answer == "missing" and not (self.exists(key) and self.size(key) == size):  # not completed by a try whose answer was lost
                raise StoreUnavailableError(self._uri, f"the upload of {key} in parts was lost")
        except BaseException:
            with suppress(StoreUnavailableError, StoreAccessError):  # the first error is the one to tell
                self._call("abort_multipart_upload", key, ("missing",), **upload)
            raise

    def _put_part(self, path: Path, key: str, upload: dict[str, Any], part_bytes: int, index: int) -> dict[str, Any]:
        with path.open("rb") as file:
            file.seek(index * part_bytes)
            data = file.read(part_bytes)
        answer = self._call("upload_part", key, PartNumber=index + 1, Body=data, **upload)
        assert isinstance(answer, dict)
        return {"PartNumber": index + 1, "ETag": answer["ETag"]}

    def get_file(self, key: str, path: Path) -> None:
        data, size, etag = self._read_range(key, 0, PART_BYTES)
        with published_file(path) as target:
            target.write(data)
            starts = range(len(data), size, PART_BYTES)
            with ThreadPoolExecutor(_PARALLEL) as pool:
                for first in range(0, len(starts), _PARALLEL):  # bounded: no more than these parts are in memory
                    batch = starts[first : first + _PARALLEL]
                    for part, _, _ in pool.map(lambda start: self._read_range(key, start, start + PART_BYTES, etag), batch):
                        target.write(part)

    def exists(self, key: str) -> bool:
        return self._call("head_object", key, ("missing",), Key=self._key(key)) != "missing"

    def size(self, key: str) -> int:
        answer = self._call("head_object", key, Key=self._key(key))
        assert isinstance(answer, dict)
        return int(answer["ContentLength"])

    def list(self, prefix: str) -> Iterator[str]:
        for key, _ in self.states(prefix):
            yield key

    def states(self, prefix: str) -> Iterator[tuple[str, str]]:
        for key, entry in self._entries(prefix):
            yield key, f"{entry['Size']} {entry['ETag']}"

    def written(self, prefix: str) -> Iterator[tuple[str, int, float]]:
        for key, entry in self._entries(prefix):
            yield key, int(entry["Size"]), entry["LastModified"].timestamp()

    def _entries(self, prefix: str) -> Iterator[tuple[str, dict[str, Any]]]:
        start = self._prefix + check_key(prefix, prefix=True)
        more: dict[str, Any] = {}
        while True:
            page = self._call("list_objects_v2", prefix, Prefix=start, MaxKeys=_LISTED, **more)
            assert isinstance(page, dict)
            for entry in page.get("Contents", []):
                if not entry["Key"].endswith("/"):  # folders made by other tools
                    yield entry["Key"].removeprefix(self._prefix), entry
            if not page.get("IsTruncated"):
                return
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def delete(self, prefix: str) -> None:
        self._delete([prefix])
        below = list(self.list(check_key(prefix) + "/"))
        below.sort(key=lambda key: not key.endswith("/MANIFEST.json"))  # so that an artifact stops to exist before its files do
        for first in range(0, len(below), _LISTED):
            self._delete(below[first : first + _LISTED])

    def _delete(self, keys: Sequence[str]) -> None:
        def act(attempt: int) -> dict[str, Any]:
            objects = [{"Key": self._key(key)} for key in keys]
            answer = _request("delete_objects", Bucket=self._bucket, Delete={"Objects": objects, "Quiet": True})
            for fault in answer.get("Errors", []):
                raise boto.ClientError({"Error": fault}, "DeleteObjects")
            return answer

        self._retry(act, keys[0])

    def local_path(self, key: str) -> Path | None:
        return None


class _Ranges(io.RawIOBase):
    """An object as a seekable file; every read is a request for a range."""

    def __init__(self, store: S3Store, key: str, size: int) -> None:
        self._store, self._key, self._size, self._at = store, key, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readall(self) -> bytes:  # the inherited one asks for 8 KiB at a time
        parts = []
        while part := self.read(PART_BYTES):
            parts.append(part)
        return b"".join(parts)

    def readinto(self, buffer: Any) -> int:
        stop = min(self._at + min(len(buffer), PART_BYTES), self._size)
        if stop <= self._at:
            return 0
        data, _, _ = self._store._read_range(self._key, self._at, stop)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def _request(method: str, **kwargs: Any) -> dict[str, Any]:
    fs = _client()
    return sync(fs.loop, _send, fs, method, kwargs)


async def _send(fs: s3fs.S3FileSystem, method: str, kwargs: dict[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = await fs._call_s3(method, **kwargs)
    if method == "get_object":
        async with answer["Body"] as body:
            answer["Body"] = await body.read()
    return answer


def classify(error: Exception) -> tuple[_Fault, str]:
    """What a failed request means, and why it failed in words.

    s3fs turns botocore's ClientErrors into builtin errors; the answer of the server is in their cause.
    """
    answer = next((e.response for e in (error, error.__cause__) if isinstance(e, boto.ClientError)), None)
    if answer is None:
        if isinstance(error, FileNotFoundError):
            return "missing", str(error)
        why = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        fatal = isinstance(error, (PermissionError, *_ACCESS)) or isinstance(error.__cause__, _ACCESS)
        return "access" if fatal else "transient", why
    code = str(answer.get("Error", {}).get("Code", ""))
    status = int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    message = answer.get("Error", {}).get("Message", "")
    why = f"{code}: {message}" if message and message != code else code or f"status {status}"
    if code == "NoSuchBucket":
        return "access", "there is no such bucket"
    if code in ("NoSuchKey", "NoSuchUpload", "NotFound", "404") or (status == 404 and not code):
        return "missing", why
    if code in ("PreconditionFailed", "412"):
        return "exists", why
    if code in ("InvalidRange", "416"):
        return "out of range", why
    if code in _TRANSIENT_CODES or status >= 500 or status in (408, 429) or (code.isdigit() and int(code) >= 500):
        return "transient", why
    return "access", why


def _hint(why: str) -> str:
    if "bucket" in why.lower() and "no such" in why:
        return "Create it, or name another in ATELIER_WORKSPACE."
    if "PermanentRedirect" in why or "AuthorizationHeaderMalformed" in why:
        return "Set AWS_DEFAULT_REGION to the bucket's region."
    return "Check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or AWS_PROFILE), AWS_ENDPOINT_URL, and that this user may read and write in the bucket."
