"""The emergency override: what arms it, what never does, and that nothing arms it twice."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from edge.break_glass import CHECK_MS, PAYLOAD_TYPE, ArmedDocument, DocumentError
from schemas.canonical import canonical_plain
from schemas.units import UnixMs, format_rfc3339
from sinks.signing import Signer
from tests.unit.edge.conftest import NOW_MS, StandingClock

MINUTE_MS = 60_000
KEY = Ed25519PrivateKey.generate()


def fields(**changes: Any) -> dict[str, Any]:
    """What a sound document says; a change to `...` takes the field away."""
    said = {
        "id": "override-1",
        "environment": "dev",
        "not_before": format_rfc3339(NOW_MS),
        "not_after": format_rfc3339(UnixMs(NOW_MS + 30 * MINUTE_MS)),
        "reason": "Redis is down",
        "operator": "jo",
    } | changes
    return {name: value for name, value in said.items() if value is not ...}


def signed(*, key: Ed25519PrivateKey = KEY, kind: str = PAYLOAD_TYPE, **changes: Any) -> bytes:
    return Signer(key).sign(kind, canonical_plain(fields(**changes)))


@pytest.fixture
def clock() -> StandingClock:
    return StandingClock()


@pytest.fixture
def public_key_file(tmp_path: Path) -> Path:
    file = tmp_path / "key.pub"
    file.write_bytes(KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return file


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "break-glass.json"


@pytest.fixture
def document(file: Path, public_key_file: Path, clock: StandingClock) -> ArmedDocument:
    return ArmedDocument(file, str(public_key_file), "dev", clock)


def test_an_armed_document_is_in_force_until_its_end(document: ArmedDocument, clock: StandingClock) -> None:
    assert document.armed() is None
    document.arm(signed())
    clock.advance(CHECK_MS)
    assert document.armed() == "override-1"
    clock.advance(30 * MINUTE_MS - CHECK_MS - 1)
    assert document.armed() == "override-1"
    clock.advance(1)
    assert document.armed() is None


@pytest.mark.parametrize(
    "wrong",
    [
        signed(environment="prod"),
        signed(key=Ed25519PrivateKey.generate()),
        signed(kind="application/json"),
        signed(not_after=format_rfc3339(UnixMs(NOW_MS + 60 * MINUTE_MS + 1))),
        signed(not_before=format_rfc3339(UnixMs(NOW_MS + 1))),
        signed(not_before=format_rfc3339(UnixMs(NOW_MS - 30 * MINUTE_MS)), not_after=format_rfc3339(NOW_MS)),
        signed(not_before="today"),
        signed(id="../../etc/passwd"),
        signed(id=""),
        signed(id="x" * 65),
        signed(reason=...),
        signed(more="than agreed"),
        signed(operator=1),
        b"",
        b"{}",
        b"\xff",
        b"[" * 100_000,
        canonical_plain(fields()),
        json.dumps(json.loads(signed()) | {"signatures": []}).encode(),
        json.dumps(json.loads(signed()) | {"payload": json.loads(signed(minutes=...))["payload"] + "AAAA"}).encode(),
    ],
)
def test_what_is_not_a_valid_document_of_this_environment_is_never_armed(
    document: ArmedDocument, file: Path, wrong: bytes
) -> None:
    with pytest.raises(DocumentError):
        document.arm(wrong)
    assert not file.exists()
    file.write_bytes(wrong)
    file.chmod(0o600)
    assert document.armed() is None


def test_a_document_can_be_armed_once(document: ArmedDocument, clock: StandingClock) -> None:
    document.arm(signed())
    with pytest.raises(DocumentError, match="armed before"):
        document.arm(signed())
    assert document.disarm() == "override-1"
    with pytest.raises(DocumentError, match="armed before"):
        document.arm(signed())
    with pytest.raises(DocumentError, match="armed before"):
        document.arm(signed(reason="another reason, the same id"))
    assert document.disarm() is None
    clock.advance(CHECK_MS)
    assert document.armed() is None
    document.arm(signed(id="override-2"))
    clock.advance(CHECK_MS)
    assert document.armed() == "override-2"


def test_disarming_binds_within_a_second(document: ArmedDocument, clock: StandingClock) -> None:
    document.arm(signed())
    assert document.armed() == "override-1"
    document.disarm()
    clock.advance(CHECK_MS)
    assert document.armed() is None


def test_a_clock_set_back_makes_it_look_again(document: ArmedDocument, clock: StandingClock) -> None:
    document.arm(signed())
    assert document.armed() == "override-1"
    document.disarm()
    clock.advance(-1)
    assert document.armed() is None


@pytest.mark.parametrize("armed_before", [True, False])
def test_a_document_put_in_place_by_hand_is_not_in_force(
    document: ArmedDocument, file: Path, armed_before: bool
) -> None:
    if armed_before:
        document.arm(signed())
        document.disarm()
    file.write_bytes(signed())
    file.chmod(0o600)
    with pytest.raises(DocumentError):
        document.current()
    assert document.armed() is None


def test_another_document_in_the_place_of_the_armed_one_is_not_in_force(document: ArmedDocument, file: Path) -> None:
    document.arm(signed())
    file.write_bytes(signed(not_after=format_rfc3339(UnixMs(NOW_MS + 59 * MINUTE_MS))))
    with pytest.raises(DocumentError, match="not the document that was armed"):
        document.current()


def _readable_by_others(file: Path, _key: Path) -> None:
    file.chmod(0o640)


def _link(file: Path, _key: Path) -> None:
    file.rename(file.with_name("elsewhere"))
    file.symlink_to(file.with_name("elsewhere"))


def _directory(file: Path, _key: Path) -> None:
    file.unlink()
    file.mkdir()


def _ledger_gone(file: Path, _key: Path) -> None:
    (file.with_name(f"{file.name}.used") / "override-1").unlink()


def _ledger_touched(file: Path, _key: Path) -> None:
    (file.with_name(f"{file.name}.used") / "override-1").write_bytes(b"\xff")


def _too_long(file: Path, _key: Path) -> None:
    file.write_bytes(b" " * 1_000_000)


def _key_gone(_file: Path, key: Path) -> None:
    key.unlink()


def _key_of_another_kind(_file: Path, key: Path) -> None:
    public = generate_private_key(SECP256R1()).public_key()
    key.write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


@pytest.mark.parametrize(
    "doubt",
    [
        *(_readable_by_others, _link, _directory, _ledger_gone, _ledger_touched, _too_long),
        *(_key_gone, _key_of_another_kind),
    ],
)
def test_on_any_doubt_nothing_is_in_force(
    document: ArmedDocument, file: Path, public_key_file: Path, doubt: Callable[[Path, Path], None]
) -> None:
    document.arm(signed())
    assert document.current().id == "override-1"
    doubt(file, public_key_file)
    assert document.armed() is None


def test_without_a_public_key_nothing_can_be_armed(file: Path, clock: StandingClock) -> None:
    with pytest.raises(DocumentError, match="FG_BREAK_GLASS_PUBLIC_KEY_FILE"):
        ArmedDocument(file, "", "dev", clock).arm(signed())


def test_every_flipped_bit_of_the_armed_file_is_found(document: ArmedDocument, file: Path) -> None:
    document.arm(signed())
    data = file.read_bytes()
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= 1
        file.write_bytes(bytes(changed))
        with pytest.raises(DocumentError):
            document.current()
    file.write_bytes(data)
    assert document.current().id == "override-1"


def test_the_files_are_for_their_user_alone(document: ArmedDocument, file: Path) -> None:
    document.arm(signed())
    ledger = file.with_name(f"{file.name}.used")
    assert [path.stat().st_mode & 0o777 for path in (file, ledger, ledger / "override-1")] == [0o600, 0o700, 0o600]


def test_the_log_says_it_once(document: ArmedDocument, clock: StandingClock, caplog: pytest.LogCaptureFixture) -> None:
    document.arm(signed())
    for _ in range(5):
        clock.advance(CHECK_MS)
        document.armed()
    document.disarm()
    for _ in range(5):
        clock.advance(CHECK_MS)
        document.armed()
    said = [record.getMessage().partition(" until ")[0] for record in caplog.records]
    assert [line for line in said if "break-glass document" in line] == [
        "break-glass document override-1 is in force",
        "no break-glass document is armed",
    ]


@pytest.mark.parametrize("place", ["break-glass.json.used", "key.pub", "."])
def test_nothing_is_in_force_where_others_may_write(
    document: ArmedDocument, clock: StandingClock, tmp_path: Path, place: str
) -> None:
    document.arm(signed())
    (tmp_path / place).chmod(0o777)
    clock.advance(CHECK_MS)
    assert document.armed() is None
    with pytest.raises(DocumentError, match="others"):
        document.arm(signed(id="override-2"))
    (tmp_path / place).chmod(0o700)
    clock.advance(CHECK_MS)
    assert document.armed() == "override-1"
