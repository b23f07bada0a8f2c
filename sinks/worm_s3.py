"""Write once, read many in a bucket with Object Lock: what is stored, nobody can remove or change before its time.

Object Lock guards versions, not keys: anybody who may write can put another version, or a marker that
hides them all, over a key. So an object here is the first version ever stored under its key, and it is
read by that version's id. Whoever reads an artifact hashes it: what lies between may lie.
"""

import asyncio
import base64
import hashlib
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from urllib.parse import urlsplit

import boto3  # type: ignore[import-untyped]  # publishes no types
from botocore.config import Config  # type: ignore[import-untyped]  # as above
from botocore.exceptions import BotoCoreError, ClientError  # type: ignore[import-untyped]  # as above
from botocore.parsers import ResponseParserError  # type: ignore[import-untyped]  # as above

from schemas.answers import NoAnswer, Refusal
from schemas.codes import Code, DeadReason
from schemas.units import Clock
from sinks.settings import ObjectStore
from sinks.worm import checked_key

T = TypeVar("T")

THREADS = 8
CONNECT_TIMEOUT_S = 3
READ_TIMEOUT_S = 20
MODE = "COMPLIANCE"
PROBE_KEY = "probe/object-lock"
PROBE = b"Stored to see that this bucket locks what it is told to lock.\n"
_HTTP_EXISTS = 412
_HTTP_BEYOND_THE_END = 416
_NOT_THERE = frozenset({"NoSuchKey", "NoSuchVersion", "404"})
_ERROR_CODE = re.compile(r"[A-Za-z0-9.]{1,64}")


class S3Worm:
    """A `Worm` in a bucket. Calls run in threads of their own, at most eight at once."""

    def __init__(self, store: ObjectStore, clock: Clock) -> None:
        """Connects to nothing."""
        parts = urlsplit(store.url)
        self._bucket = store.bucket
        self._clock = clock
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="worm")
        self._client: Any = boto3.session.Session().client(
            "s3",
            endpoint_url=f"{parts.scheme}://{parts.netloc}",
            region_name=store.region,
            aws_access_key_id=store.access_key_id,
            aws_secret_access_key=store.secret_access_key,
            config=Config(
                connect_timeout=CONNECT_TIMEOUT_S,
                read_timeout=READ_TIMEOUT_S,
                retries={"total_max_attempts": 1},  # who calls tries again, and knows when to stop
                max_pool_connections=THREADS,
                s3={"addressing_style": "path"},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )

    async def ping(self) -> bool:
        return not await self.faults()

    async def faults(self) -> list[str]:
        """What stands against trusting the bucket with evidence, nothing when it was seen to lock an object."""
        return await self._in_thread(self._faults)

    async def put(self, key: str, data: bytes, *, retain_days: int) -> None:
        await self._in_thread(self._put, checked_key(key), data, retain_days)

    async def get(self, key: str) -> bytes | None:
        return await self._in_thread(self._read, checked_key(key), None)

    async def get_range(self, key: str, offset: int, length: int) -> bytes | None:
        data = await self._in_thread(self._read, checked_key(key), f"bytes={offset}-{offset + length - 1}")
        return None if data is None else data[:length]

    async def _in_thread(self, function: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)

    def _put(self, key: str, data: bytes, retain_days: int) -> None:
        until = _whole_second(self._clock.now_ms(), retain_days)
        with _translated():
            created = self._create(key, data, until)
            first = self._first_version(key)
            if first is None:
                raise NoAnswer(Code.STORE_UNAVAILABLE)
            if first != created and self._body(key, first, None) != data:
                raise Refusal(DeadReason.STORE_REFUSED)
            self._hold(key, first, until)

    def _create(self, key: str, data: bytes, until: datetime) -> str | None:
        """The id of the version made, None when there was an object already."""
        try:
            made = self._client.put_object(
                Bucket=self._bucket,
                Key=key,
                Body=data,
                IfNoneMatch="*",
                ChecksumSHA256=base64.b64encode(hashlib.sha256(data).digest()).decode(),
                ObjectLockMode=MODE,
                ObjectLockRetainUntilDate=until,
            )
        except ClientError as error:
            if _status(error) == _HTTP_EXISTS:
                return None
            raise
        return str(made["VersionId"])

    def _hold(self, key: str, version: str, until: datetime) -> None:
        """Return once the version is seen to be locked until then; a shorter lock is made longer."""
        if self._is_held(key, version, until):
            return
        lock = {"Mode": MODE, "RetainUntilDate": until}
        self._client.put_object_retention(Bucket=self._bucket, Key=key, VersionId=version, Retention=lock)
        if not self._is_held(key, version, until):
            raise NoAnswer(Code.STORE_UNAVAILABLE)

    def _is_held(self, key: str, version: str, until: datetime) -> bool:
        seen = self._client.head_object(Bucket=self._bucket, Key=key, VersionId=version)
        locked_until = seen.get("ObjectLockRetainUntilDate")
        return seen.get("ObjectLockMode") == MODE and locked_until is not None and locked_until >= until

    def _first_version(self, key: str) -> str | None:
        """The id of the oldest version: they are listed by key, and of a key the newest first."""
        oldest = None
        for page in self._client.get_paginator("list_object_versions").paginate(Bucket=self._bucket, Prefix=key):
            for version in page.get("Versions", ()):
                if version["Key"] != key:
                    return oldest
                oldest = str(version["VersionId"])
        return oldest

    def _read(self, key: str, wanted: str | None) -> bytes | None:
        with _translated():
            first = self._first_version(key)
            return None if first is None else self._body(key, first, wanted)

    def _body(self, key: str, version: str, wanted: str | None) -> bytes | None:
        span = {} if wanted is None else {"Range": wanted}
        try:
            answer = self._client.get_object(Bucket=self._bucket, Key=key, VersionId=version, **span)
            return bytes(answer["Body"].read())
        except ClientError as error:
            if _status(error) == _HTTP_BEYOND_THE_END:
                return b""
            if _code(error) in _NOT_THERE:
                return None
            raise

    def _faults(self) -> list[str]:
        bucket = f"the bucket {self._bucket}"
        try:
            self._client.head_bucket(Bucket=self._bucket)
            if self._client.get_bucket_versioning(Bucket=self._bucket).get("Status") != "Enabled":
                return [f"{bucket} keeps no versions, so nothing in it is locked"]
            found = self._client.get_object_lock_configuration(Bucket=self._bucket)
            if found.get("ObjectLockConfiguration", {}).get("ObjectLockEnabled") != "Enabled":
                return [f"{bucket} has no Object Lock"]
            self._put(PROBE_KEY, PROBE, 1)
        except ClientError as error:
            return [f"{bucket} cannot hold evidence: the object store answers {_code(error)}"]
        except (NoAnswer, Refusal):
            return [f"{bucket} does not lock what is put into it"]
        except (BotoCoreError, ResponseParserError):
            return ["the object store does not answer"]
        return []


def _whole_second(now_ms: int, retain_days: int) -> datetime:
    """The end of the lock: stores keep seconds, and cut the rest off."""
    return datetime.fromtimestamp(-(-now_ms // 1_000), UTC) + timedelta(days=retain_days)


@contextmanager
def _translated() -> Iterator[None]:
    """Turn whatever the store or the way to it did into NoAnswer(STORE_UNAVAILABLE): put again, or read again."""
    try:
        yield
    except (BotoCoreError, ClientError, ResponseParserError):
        raise NoAnswer(Code.STORE_UNAVAILABLE) from None


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _code(error: ClientError) -> str:
    """The store's name of the error, nothing else of what it says."""
    code = str(error.response.get("Error", {}).get("Code", ""))
    return code if _ERROR_CODE.fullmatch(code) else "an error without a name"
