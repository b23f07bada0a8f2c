"""The edge's TLS, and when it may do without."""

import ipaddress
import ssl
from collections.abc import Callable
from pathlib import Path

from edge.settings import TlsSettings


class TlsError(Exception):
    """TLS cannot be served with these files. The message lists each file at fault and why, never what is in it."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("TLS cannot be served:\n" + "\n".join(f"  - {fault}" for fault in faults))
        self.faults = tuple(faults)


def server_context(settings: TlsSettings) -> ssl.SSLContext:
    """TLS 1.2 and 1.3; with a client CA no connection is made without a certificate of it. Raises TlsError.

    Renewed files are used by the next start.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20")  # of TLS 1.2; those of 1.3 are all sound
    context.set_alpn_protocols(["http/1.1"])
    faults = _unreadable(settings)
    if not faults:
        faults += _fault(
            f"{settings.cert_file} with {settings.key_file}",
            # Never ask at the terminal: a key with a passphrase is refused.
            lambda: context.load_cert_chain(settings.cert_file, settings.key_file, password=""),
        )
    if not faults and settings.client_ca_file:
        context.verify_mode = ssl.CERT_REQUIRED
        faults += _fault(settings.client_ca_file, lambda: context.load_verify_locations(settings.client_ca_file))
    if faults:
        raise TlsError(faults)
    return context


def faults(host: str, tls: TlsSettings) -> list[str]:
    """Everything that keeps an edge from serving on this host as it is told to. Reads the files."""
    plain = plain_http_fault(host, tls)
    found = [] if plain is None else [plain]
    if tls.served:
        try:
            server_context(tls)
        except TlsError as failure:
            found += failure.faults
    return found


def is_loopback(host: str) -> bool:
    """Whether this host is the machine itself; a name other than `localhost` may be anybody's."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def plain_http_fault(host: str, tls: TlsSettings) -> str | None:
    """Why this host may not be listened on: an API key over plain HTTP never leaves the machine."""
    if tls.served or is_loopback(host):
        return None
    return f"FG_HTTP_HOST {host} is not a loopback address, and without FG_TLS_CERT_FILE and FG_TLS_KEY_FILE it must be"


def _unreadable(settings: TlsSettings) -> list[str]:
    faults = []
    for file in (settings.cert_file, settings.key_file, settings.client_ca_file):
        if file:
            faults += _fault(file, Path(file).read_bytes)
    return faults


def _fault(files: str, attempt: Callable[[], object]) -> list[str]:
    try:
        attempt()
    except ssl.SSLError as cause:
        return [f"{files}: {cause.reason or 'not usable PEM'}"]
    except OSError as cause:
        return [f"{files}: {cause.strerror}"]
    return []
