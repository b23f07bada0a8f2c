"""`frostgate export` against a running stack, verified by the program a stranger runs."""

import hashlib
import json
import os
import socket
import subprocess
import sys
import tarfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from sinks import keyring
from tests.integration.cli.commands import Shell, event, ndjson
from tests.integration.cli.conftest import Tenant
from tests.integration.test_up import until

SCRIPT = Path(__file__).resolve().parents[3] / "scripts" / "verify_data_plane_hashchain.py"


@pytest.fixture
def exporter(tenant: Tenant, operator: Shell) -> Shell:
    """The operator's shell, once the tenant has twelve decided events."""
    sent = tenant.shell.run("send", "-", stdin=ndjson(*(event(number) for number in range(12))))
    assert sent.status == 0, sent
    tenant.decided(12)
    return operator


def umask() -> int:
    found = os.umask(0)
    os.umask(found)
    return found


def verified(file: Path, root: str) -> int:
    return subprocess.run(
        [sys.executable, "-S", SCRIPT, file, "--root", root], check=False, capture_output=True
    ).returncode


def test_everything_committed_is_sealed_covered_and_written(exporter: Shell, tenant: Tenant, tmp_path: Path) -> None:
    root = keyring.load(Path(tenant.stack.data_dir) / "keyring.json").root_fingerprint
    file = tmp_path / "evidence.tar"
    done = exporter.run("export", "--tenant", tenant.tenant_id, "--include-trace", "-o", str(file), "--json")
    assert done.status == 0, done
    assert verified(file, root) == 0
    assert verified(file, "0" * 64) == 5
    predicate = done.document["predicate"]
    assert (predicate["first_seq"], predicate["last_seq"]) == (1, 12)
    assert predicate["trace_bundle"]["span_count"] == 5 * 12
    with tarfile.open(file) as archive:
        traces = archive.extractfile("traces.jsonl")
        assert traces is not None
        spans = json.loads(traces.readline())["spans"]
    assert [span["name"] for span in spans] == ["ingest", "dedupe", "features", "policy", "scoring"]
    (row,) = tenant.rows("SELECT bundle_json, status, digest, bytes FROM evidence_bundles WHERE tenant_id = $1")
    assert json.loads(row["bundle_json"]) == predicate
    assert (row["status"], row["digest"]) == ("ready", done.document["sha256"])
    assert row["bytes"] == done.document["bytes"] == file.stat().st_size


def test_a_file_that_is_there_stays_unless_it_is_to_be_replaced(
    exporter: Shell, tenant: Tenant, tmp_path: Path
) -> None:
    file = tmp_path / "evidence.tar"
    file.write_text("mine")
    refused = exporter.run("export", "--tenant", tenant.tenant_id, "-o", str(file))
    assert (refused.status, file.read_text()) == (2, "mine")
    assert "--force" in refused.stderr
    assert exporter.run("export", "--tenant", tenant.tenant_id, "-o", str(file), "--force").status == 0
    assert tarfile.is_tarfile(file)
    assert [file.name for file in tmp_path.iterdir()] == ["evidence.tar"]
    assert file.stat().st_mode & 0o777 == 0o666 & ~umask()


def test_an_export_that_is_ended_leaves_nothing_and_nobody_elses_file_is_touched(
    operator: Shell, tmp_path: Path
) -> None:
    """Ended while it waits for a database that takes connections and never says a word."""
    file, theirs = tmp_path / "evidence.tar", tmp_path / "evidence.tar.part"
    theirs.write_text("theirs")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(60)
        dsn = f"postgresql://nobody:nothing@127.0.0.1:{silent.getsockname()[1]}/none"
        shell = operator.with_variables(FG_ADMIN_POSTGRES_DSN=dsn)
        running = [shell.start("export", "--tenant", "acme", "-o", str(file)) for _ in range(2)]
        accepted = [silent.accept()[0] for _ in running]
        assert len({one.name for one in tmp_path.iterdir()}) == 3
        for process in running:
            process.terminate()
        ended = [process.communicate(timeout=60) for process in running]
        for one in accepted:
            one.close()
    assert [process.returncode for process in running] == [1, 1]
    assert all(b"Traceback" not in stderr for _, stderr in ended), ended
    assert [one.name for one in tmp_path.iterdir()] == ["evidence.tar.part"]
    assert theirs.read_text() == "theirs"


def test_a_tenant_or_time_without_evidence_is_said_and_nothing_is_written(
    exporter: Shell, tenant: Tenant, tmp_path: Path
) -> None:
    file = tmp_path / "evidence.tar"
    for arguments in (("--tenant", "nobody"), ("--tenant", tenant.tenant_id, "--to", "2020-01-01T00:00:00Z")):
        refused = exporter.run("export", *arguments, "-o", str(file))
        assert refused.status == 1
        assert "has no evidence of that time" in refused.stderr
    assert exporter.run("export", "--from", "yesterday", "-o", str(file)).status == 2
    assert not file.exists()


class Http:
    """The tenant's HTTP, with a key for evidence."""

    def __init__(self, tenant: Tenant, operator: Shell) -> None:
        issued = operator.run("keys", "issue", tenant.tenant_id, "--scope", "evidence:read", "--json")
        self._url = tenant.stack.url
        self._headers = {"Authorization": f"Bearer {issued.document['api_key']}"}

    def ask(self, method: str, path: str) -> tuple[int, bytes, str]:
        """Status, body and Location."""
        request = urllib.request.Request(self._url + path, method=method, headers=self._headers)  # noqa: S310  (our own)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310  (our own)
                return answer.status, answer.read(), answer.headers.get("Location", "")
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code, refused.read(), ""

    def ended(self, where: str) -> Any:
        """How the bundle stands once it is no longer pending."""
        until("an end", lambda: json.loads(self.ask("GET", where)[1])["status"] != "pending")
        return json.loads(self.ask("GET", where)[1])


def test_a_tenant_orders_a_bundle_over_http_and_verifies_it(exporter: Shell, tenant: Tenant, tmp_path: Path) -> None:
    root = keyring.load(Path(tenant.stack.data_dir) / "keyring.json").root_fingerprint
    http = Http(tenant, exporter)
    code, body, where = http.ask("POST", "/v1/evidence/exports?include_trace=true")
    assert (code, json.loads(body)["status"]) == (202, "pending")
    status = http.ended(where)
    assert (status["status"], status["bundle"]["include_trace"]) == ("ready", True)
    code, content, _ = http.ask("GET", f"{where}/content")
    assert (code, hashlib.sha256(content).hexdigest(), len(content)) == (200, status["sha256"], status["bytes"])
    file = tmp_path / "evidence.tar"
    file.write_bytes(content)
    assert verified(file, root) == 0


def test_a_bundle_of_a_tenant_without_evidence_fails_and_says_why(operator: Shell, tenant: Tenant) -> None:
    http = Http(tenant, operator)
    _, _, where = http.ask("POST", "/v1/evidence/exports")
    status = http.ended(where)
    assert (status["status"], status["bundle"]["reason"]) == ("failed", "there is no evidence of that time")
    assert http.ask("GET", f"{where}/content")[0] == 404
