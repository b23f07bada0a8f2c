"""The worker's side of the witness."""

import asyncio
import http.client
import urllib.error
import urllib.request
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from ops.witness.judge import Objection, WitnessCode
from schemas.answers import NoAnswer
from schemas.checkpoint import round_of
from schemas.codes import Code
from sinks.checkpoints import StoredRound
from sinks.keyring import Keyring
from sinks.notes import countersigned, text_of, verify, verify_cosignature
from sinks.signing import SignatureError, Signer

TIMEOUT_S = 5.0
ANSWER_BYTES_MAX = 64 * 1024


class _Latest(msgspec.Struct, frozen=True):
    round: int
    note: str
    cosignature: str


class Seen(NamedTuple):
    """A round that the witness proves to have seen: its number and the text of its note."""

    number: int
    text: str


class _Cosigned(msgspec.Struct, frozen=True):
    cosignature: str


class _Problem(msgspec.Struct, frozen=True):
    error_code: WitnessCode
    detail: str


class WitnessClient:
    """Speaks to the witness at `url`. A round counts as seen only with a cosignature by `public_key`.

    An objection is not signed: it is as true as the way to `url` is safe, and so that way is https or loopback.
    """

    def __init__(self, url: str, public_key: Ed25519PublicKey, signer: Signer) -> None:
        if urlsplit(url).scheme not in {"http", "https"}:
            raise ValueError("a witness is reached by http or https")
        self._url = url.rstrip("/")
        self._public_key = public_key
        self._signer = signer
        # No proxy of the environment, and no redirect, stands between the two.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _StayHere())

    async def countersign(self, this: StoredRound) -> str:
        """The witness's signature line under that round. Raises Objection, and NoAnswer when it is away.

        Raises SignatureError when the database no longer knows the round's note or the one before it.
        """
        submission = {
            "note": countersigned(this.note, self._signer),
            "link": this.link.hex(),
            "leaves": msgspec.Raw(this.leaves.encode()),
            "growth": msgspec.Raw(this.growth.encode()),
        }
        answer = await asyncio.to_thread(self._ask, "/v1/rounds", msgspec.json.encode(submission))
        try:
            cosignature = msgspec.json.decode(answer, type=_Cosigned).cosignature
            verify_cosignature(text_of(this.note), cosignature, self._public_key)
        except (msgspec.MsgspecError, SignatureError):
            raise NoAnswer(Code.STORE_UNAVAILABLE) from None
        return cosignature

    async def latest(self, partition: int, ring: Keyring) -> Seen | None:
        """The last round of the partition that it proves to have seen, None when it saw none.

        Raises NoAnswer when it is away, or says what neither it nor we signed.
        """
        try:
            answer = await asyncio.to_thread(self._ask, f"/v1/latest/{partition}", None)
        except Objection:  # nothing was shown to it that it could object to
            raise NoAnswer(Code.STORE_UNAVAILABLE) from None
        try:
            latest = msgspec.json.decode(answer, type=_Latest)
            if not latest.round:
                return None
            text = verify(latest.note, ring.public_keys())
            verify_cosignature(text, latest.cosignature, self._public_key)
            this = round_of(text)
        except (ValueError, SignatureError):
            raise NoAnswer(Code.STORE_UNAVAILABLE) from None
        if (this.partition, this.number) != (partition, latest.round):
            raise NoAnswer(Code.STORE_UNAVAILABLE)
        return Seen(this.number, text)

    def _ask(self, path: str, body: bytes | None) -> bytes:
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self._url + path, body, headers)  # noqa: S310  (the scheme was checked)
        try:
            with self._opener.open(request, timeout=TIMEOUT_S) as response:
                answer: bytes = response.read(ANSWER_BYTES_MAX)
                return answer
        except urllib.error.HTTPError as refused:
            with refused:
                raise _objection(refused) from None
        except (OSError, http.client.HTTPException):
            raise NoAnswer(Code.STORE_UNAVAILABLE) from None


class _StayHere(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_arguments: object) -> None:
        return None


def _objection(refused: urllib.error.HTTPError) -> Exception:
    try:
        problem = msgspec.json.decode(refused.read(ANSWER_BYTES_MAX), type=_Problem)
    except (msgspec.MsgspecError, OSError, http.client.HTTPException):
        return NoAnswer(Code.STORE_UNAVAILABLE)
    return Objection(problem.error_code, problem.detail)
