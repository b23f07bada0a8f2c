"""`frostgate witness`: countersign the rounds of somebody else's evidence."""

import sqlite3
from pathlib import Path

import click
import uvicorn

from ops.clock import SystemClock
from ops.telemetry import configure_logging
from ops.tls import is_loopback
from ops.witness.service import Witness, WitnessApp
from ops.witness.store import WitnessStore
from sinks.durable_file import write_new
from sinks.keyring import KeyringError
from sinks.signing import KeyFileError, Signer, create_key, fingerprint_of, public_pem

KEY, PUBLIC_KEY, MEMORY = "witness-key.pem", "witness-key.pub", "witness.sqlite"
CONNECTIONS_MAX = 64
KEEP_ALIVE_S = 5
_file = click.Path(path_type=Path, dir_okay=False, exists=True)


@click.command(
    epilog="""\b
Example:
  frostgate witness --dir /var/lib/witness --log-keyring keyring.json --host 0.0.0.0 --tls-cert w.crt --tls-key w.key

Exit status: 0 stopped by a signal; 1 its files cannot be used; 2 usage."""
)
@click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Directory of its key and memory; both are made on the first start.",
)
@click.option("--key", "key_file", type=_file, help="Its private key, PEM.  [default: made in the directory]")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", type=click.IntRange(0, 65_535), default=8090, show_default=True, help="Port; 0 takes a free one."
)
@click.option("--log-keyring", "keyring_file", type=_file, required=True, help="Key ring of the log it watches.")
@click.option("--tls-cert", "tls_cert", type=_file, help="Certificate to serve HTTPS with.")
@click.option("--tls-key", "tls_key", type=_file, help="Its private key.")
def witness(  # noqa: PLR0913  (one parameter an option is how click hands them over)
    *,
    directory: Path,
    key_file: Path | None,
    host: str,
    port: int,
    keyring_file: Path,
    tls_cert: Path | None,
    tls_key: Path | None,
) -> None:
    """Run a witness until SIGTERM: it countersigns each round of a log that only ever grows, and says no otherwise.

    Run it where the log's operators have no hand in it. It prints its public key's file and
    fingerprint; the log's operator gives the file to the workers as FG_WITNESS_PUBLIC_KEY_FILE.
    """
    if bool(tls_cert) != bool(tls_key):
        raise click.UsageError("--tls-cert and --tls-key go together")
    if tls_cert is None and not is_loopback(host):
        raise click.UsageError("plain HTTP is for loopback only: give --tls-cert and --tls-key")
    configure_logging("frostgate-witness", "INFO", None)
    try:
        signer = _key(directory, key_file)
        store = WitnessStore.open(directory / MEMORY)
    except (OSError, sqlite3.Error, KeyFileError) as problem:
        raise click.ClickException(f"{directory}: {problem}") from problem
    try:
        app = WitnessApp(Witness(store, signer, keyring_file, SystemClock()))
        click.echo(f"witness key {key_file or directory / PUBLIC_KEY} {fingerprint_of(signer.public_key)}", err=True)
        _serve(app, host, port, (tls_cert, tls_key))
    except KeyringError as problem:
        raise click.ClickException(str(problem)) from problem
    finally:
        store.close()


def _key(directory: Path, key_file: Path | None) -> Signer:
    """The key given, else the directory's own, made on the first start together with its public half."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if key_file is not None:
        return Signer.load(key_file)
    if not (directory / KEY).exists():
        create_key(directory / KEY)
    signer = Signer.load(directory / KEY)
    if not (directory / PUBLIC_KEY).exists():
        write_new(directory / PUBLIC_KEY, public_pem(signer.public_key), 0o644)
    return signer


def _serve(app: WitnessApp, host: str, port: int, tls: tuple[Path | None, Path | None]) -> None:
    certificate, key = tls
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http="httptools",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=CONNECTIONS_MAX,
        timeout_keep_alive=KEEP_ALIVE_S,
        ssl_certfile=certificate,
        ssl_keyfile=key,
    )
    uvicorn.Server(config).run()
