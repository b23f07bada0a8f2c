"""The witness over HTTP: `POST /v1/rounds`, `GET /v1/latest/<partition>`, `/livez`."""

import asyncio
import logging
import re
import sqlite3
from collections.abc import Awaitable, Callable, MutableMapping
from http import HTTPStatus
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from ops.witness.judge import Objection, Submission, WitnessCode, checked, judge
from ops.witness.store import Kept, WitnessStore
from schemas.checkpoint import Round, round_of
from schemas.subjects import PARTITIONS
from schemas.units import Clock
from sinks import keyring
from sinks.notes import cosign, text_of, verify
from sinks.signing import SignatureError, Signer

log = logging.getLogger("witness")

BODY_BYTES_MAX = 8 * 1024 * 1024
BODY_S_MAX = 10.0
_LATEST = re.compile(r"/v1/latest/(\d{1,3})", re.ASCII)
_STATUS = {
    WitnessCode.FORK: HTTPStatus.CONFLICT,
    WitnessCode.ROLLBACK: HTTPStatus.CONFLICT,
    WitnessCode.GAP: HTTPStatus.CONFLICT,
    WitnessCode.MALFORMED: HTTPStatus.BAD_REQUEST,
    WitnessCode.UNKNOWN_KEY: HTTPStatus.FORBIDDEN,
}
_submission = msgspec.json.Decoder(Submission)
Message = MutableMapping[str, Any]


class Reply(NamedTuple):
    status: HTTPStatus
    content_type: str
    body: bytes


class Witness:
    """Countersigns rounds of the log whose key ring lies in `keyring_file`, and remembers them."""

    def __init__(self, store: WitnessStore, signer: Signer, keyring_file: Path, clock: Clock) -> None:
        """Raises KeyringError when there is no key ring. Its root key is the one for this process's life."""
        self._store = store
        self._signer = signer
        self._keyring_file = keyring_file
        self._clock = clock
        self._root = keyring.load(keyring_file).root_fingerprint

    def countersign(self, submission: Submission) -> str:
        """The cosignature of that round, on disk; of one seen before, the same as then. Raises Objection."""
        this = self._signed(submission.note)
        before = self._store.round(this.partition, this.number)
        if before is not None and before.seen.note_text == text_of(submission.note):
            return before.cosignature
        last = self._store.last(this.partition)
        if before is not None and last is not None and before.number < last.number:
            raise Objection(WitnessCode.FORK, f"round {this.number} was another one")
        names = [leaf.name for leaf in checked(submission).leaves]
        seen = last.seen if last else None
        trees = judge(this, submission, seen, self._store.trees(this.partition, names))
        cosignature = cosign(text_of(submission.note), self._clock.now_ms() // 1_000, self._signer)
        first_number = seen.first_number if seen else this.number
        self._store.keep(this.partition, Kept(this.number, first_number, submission.note, cosignature), trees)
        return cosignature

    def latest(self, partition: int) -> dict[str, object]:
        """The last round countersigned: its number, 0 when there is none, with note and cosignature."""
        kept = self._store.last(partition)
        if kept is None:
            return {"round": 0, "note": "", "cosignature": ""}
        return {"round": kept.number, "note": kept.note, "cosignature": kept.cosignature}

    def _signed(self, note: str) -> Round:
        """The round of a note that a key signed which holds now."""
        ring = keyring.read(self._keyring_file.read_bytes(), self._root)
        try:
            text = verify(note, ring.public_keys(moment_ms=self._clock.now_ms()))
            return round_of(text)
        except SignatureError as cause:
            raise Objection(WitnessCode.UNKNOWN_KEY, str(cause)) from cause
        except ValueError as cause:
            raise Objection(WitnessCode.MALFORMED, str(cause)) from cause


class WitnessApp:
    """The ASGI application."""

    def __init__(self, witness: Witness) -> None:
        self._witness = witness
        self._turn = asyncio.Lock()

    async def __call__(
        self,
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        if scope["type"] != "http":
            raise RuntimeError("only HTTP is served")
        reply = await self._reply(scope["method"], scope["path"], receive)
        headers = [
            (b"content-type", reply.content_type.encode()),
            (b"content-length", str(len(reply.body)).encode()),
            (b"cache-control", b"no-store"),
        ]
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": reply.body})

    async def _reply(self, method: str, path: str, receive: Callable[[], Awaitable[Message]]) -> Reply:
        latest = _LATEST.fullmatch(path)
        match method, path:
            case "GET", "/livez":
                return _json({"live": True})
            case "GET", _ if latest is not None and int(latest[1]) < PARTITIONS:
                async with self._turn:
                    return _json(await asyncio.to_thread(self._witness.latest, int(latest[1])))
            case "POST", "/v1/rounds":
                body = await _body(receive)
                if body is None:
                    return _problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, WitnessCode.MALFORMED, "too large or too slow")
                async with self._turn:
                    return await asyncio.to_thread(self._post, body)
            case _:
                return _problem(HTTPStatus.NOT_FOUND, WitnessCode.MALFORMED, "nothing here")

    def _post(self, body: bytes) -> Reply:
        try:
            submission = _submission.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return _problem(HTTPStatus.BAD_REQUEST, WitnessCode.MALFORMED, "not a round")
        try:
            return _json({"cosignature": self._witness.countersign(submission)})
        except Objection as objection:
            log.warning("not countersigned: %s", objection)
            return _problem(_STATUS[objection.code], objection.code, objection.detail)
        except (sqlite3.Error, OSError, keyring.KeyringError) as failure:
            log.error("cannot countersign: %s", type(failure).__name__)  # noqa: TRY400  (the kind says it all)
            status = HTTPStatus.SERVICE_UNAVAILABLE
            return Reply(status, "application/problem+json", msgspec.json.encode({"status": status, "title": "away"}))


async def _body(receive: Callable[[], Awaitable[Message]]) -> bytes | None:
    """The whole body; None when it is too large, too slow or broken off."""
    parts, size = [], 0
    try:
        async with asyncio.timeout(BODY_S_MAX):
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    return None
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                if size > BODY_BYTES_MAX:
                    return None
                if not message.get("more_body", False):
                    return b"".join(parts)
    except TimeoutError:
        return None


def _json(document: dict[str, Any]) -> Reply:
    return Reply(HTTPStatus.OK, "application/json", msgspec.json.encode(document))


def _problem(status: HTTPStatus, code: WitnessCode, detail: str) -> Reply:
    document = {
        "type": f"https://frostgate.dev/problems/{code.lower()}",
        "title": status.phrase,
        "status": int(status),
        "detail": detail,
        "error_code": code,
    }
    return Reply(status, "application/problem+json", msgspec.json.encode(document))
