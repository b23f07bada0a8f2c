"""Settings: the specification's names and defaults, every fault at once, and no secret shown."""

import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from ops.settings import Service, SettingsError, effective, load, settings_hash, unknown_variables
from ops.settings_table import TABLE
from ops.settings_types import shown
from streams.attempting import delay_ms
from streams.budgets import BACKOFF_MS, unspendable

# Copied from the specification, phase 2.1 A.
SPECIFIED = """
# Ingest fairness
FG_DP_INGEST_RPS_BASE=20                    # floor per tenant
FG_DP_INGEST_RPS_BURST=120
FG_DP_INGEST_RPS_TIER_OVERRIDE_JSON='{"free":10,"pro":40,"enterprise":120}'

# Queue protection
FG_DP_REDIS_QUEUE_WARN_DEPTH=5000
FG_DP_REDIS_QUEUE_SHED_DEPTH=8000
FG_DP_REDIS_QUEUE_HARDSTOP_DEPTH=12000
FG_DP_QUEUE_KEY_TEMPLATE='fg:q:{tenant_id}:{lane}'

# Circuit breaker
FG_DP_CB_ERROR_RATE_THRESHOLD=0.08          # 8% over rolling window
FG_DP_CB_LATENCY_P95_MS=350
FG_DP_CB_OPEN_SECONDS=30
FG_DP_CB_HALF_OPEN_PROBE=25

# Retry / DLQ
FG_DP_RETRY_BUDGET_PER_EVENT=5
FG_DP_RETRY_BUDGET_WINDOW_SEC=900
FG_DP_DLQ_MAX_AGE_SEC=86400
FG_DP_DLQ_ALERT_DEPTH=200
"""
SECRET = "s3cr3t-canary"
WITH_SECRETS = {
    "FG_NATS_URL": f"nats://edge:{SECRET}@127.0.0.1:4222",
    "FG_NATS_SYSTEM_URL": f"nats://system:{SECRET}@127.0.0.1:4222",
    "FG_POSTGRES_DSN": f"postgresql://fg_edge:{SECRET}@127.0.0.1:5432/frostgate",
    "FG_ADMIN_POSTGRES_DSN": f"postgresql:///frostgate?host=/run&password={SECRET}",
    "FG_REDIS_URL": f"redis://:{SECRET}@127.0.0.1:6379/0",
    "FG_OPA_URL": f"https://user:{SECRET}@opa.example",
    "FG_API_KEY": SECRET,
    "FG_URL": f"http://user:{SECRET}@edge.example",
    "FG_EDGE_POSTGRES_PASSWORD": SECRET,
    "FG_WORKER_POSTGRES_PASSWORD": SECRET,
    "FG_ADMIN_ROLE_POSTGRES_PASSWORD": SECRET,
}


def test_every_specified_variable_exists_with_exactly_the_specified_default() -> None:
    specified = dict(word.split("=", 1) for word in shlex.split(SPECIFIED, comments=True))
    assert {name: TABLE[name].default for name in specified} == specified


def test_the_defaults_are_a_configuration_that_up_can_start_with() -> None:
    settings = load({}, Service.UP)
    assert (settings.env, settings.http_host, settings.http_port, settings.admin_port) == (
        "dev", "127.0.0.1", 8080, 8081,
    )  # fmt: skip
    assert settings.streams.tenant_messages_max == 12_000
    assert settings.edge.event_age_ms_max == 604_800_000
    assert settings.edge.integrity_required is False
    assert settings.rates.rps_by_tier == (("enterprise", 120), ("free", 10), ("pro", 40))
    assert settings.opa_enforce is True
    assert settings.policy_dir == Path(__file__).parents[3] / "policies"
    assert settings.evidence.worm_dir == Path.cwd() / ".frostgate" / "worm"


@pytest.mark.parametrize("host", ["witness", "10.0.0.7", "127.0.0.1.example"])
def test_a_witness_on_another_host_is_reached_by_https_alone(host: str) -> None:
    environ = {"FG_WITNESS_PUBLIC_KEY_FILE": "/w.pub"}
    with pytest.raises(SettingsError, match="FG_WITNESS_URL must begin with https://"):
        load(environ | {"FG_WITNESS_URL": f"http://{host}:8090"})
    for url in (f"https://{host}:8090", "http://127.0.0.1:8090", "http://localhost:8090", "http://[::1]:8090"):
        assert load(environ | {"FG_WITNESS_URL": url}).evidence.witness_url == url


def test_all_faults_stand_in_one_message() -> None:
    environ = {
        "FG_ENV": "prod",
        "FG_OPA_ENFORCE": "0",
        "FG_HTTP_PORT": "eighty",
        "FG_DP_CB_ERROR_RATE_THRESHOLD": "8%",
        "FG_DP_INGEST_RPS_TIER_OVERRIDE_JSON": '{"free": 0}',
        "FG_DP_QUEUE_KEY_TEMPLATE": "fg:q:{tenant_id}",
        "FG_DP_REDIS_QUEUE_WARN_DEPTH": "9000",
        "FG_DP_INGEST_RPS_BASE": "500",
        "FG_NATS_REPLICAS": "2",
        "FG_DP_INTEGRITY_MODE": "off",
        "FG_REDIS_URL": "http://not-redis",
    }
    with pytest.raises(SettingsError) as raised:
        load(environ, Service.EDGE)
    message = str(raised.value)
    for name in (
        "FG_OPA_ENFORCE", "FG_HTTP_PORT", "FG_DP_CB_ERROR_RATE_THRESHOLD", "FG_DP_INGEST_RPS_TIER_OVERRIDE_JSON",
        "FG_DP_QUEUE_KEY_TEMPLATE", "FG_DP_REDIS_QUEUE_WARN_DEPTH", "FG_DP_INGEST_RPS_BURST", "FG_NATS_REPLICAS",
        "FG_DP_INTEGRITY_MODE", "FG_REDIS_URL must be", "FG_NATS_URL is required", "FG_POSTGRES_DSN is required",
    ):  # fmt: skip
        assert name in message
    assert len(raised.value.faults) == message.count("\n  - ")


@pytest.mark.parametrize(
    ("need", "required"),
    [
        (Service.EDGE, {"FG_NATS_URL", "FG_NATS_SYSTEM_URL", "FG_POSTGRES_DSN", "FG_REDIS_URL"}),
        (Service.WORKER, {"FG_NATS_URL", "FG_POSTGRES_DSN"}),
        (Service.MIGRATE, {"FG_NATS_URL", "FG_ADMIN_POSTGRES_DSN"}),
    ],
)
def test_a_service_says_what_it_cannot_do_without(need: Service, required: set[str]) -> None:
    with pytest.raises(SettingsError) as raised:
        load({}, need)
    assert {fault.split()[0] for fault in raised.value.faults} == required
    load({name: WITH_SECRETS[name] for name in required}, need)


@pytest.mark.parametrize(
    ("environ", "fault"),
    [
        ({"FG_DP_SCHEMA_READERS": "1.0,9.0"}, "FG_DP_SCHEMA_READERS names 9.0: published are 1.0"),
        ({"FG_DP_SCHEMA_READERS": "1.0,1.0"}, "FG_DP_SCHEMA_READERS must be"),
        ({"FG_DP_SCHEMA_READERS": "1"}, "FG_DP_SCHEMA_READERS must be"),
        ({"FG_DP_SCHEMA_WRITER": "9.0"}, "FG_DP_SCHEMA_WRITER is 9.0, which none of FG_DP_SCHEMA_READERS reads"),
        ({"FG_DP_SCHEMA_WRITER": "1.9"}, "FG_DP_SCHEMA_WRITER is 1.9, which none of FG_DP_SCHEMA_READERS reads"),
        ({"FG_DP_SCHEMA_WRITER": "1.0,1.1"}, "FG_DP_SCHEMA_WRITER must be a version"),
    ],
)
def test_only_published_versions_are_read_and_only_read_ones_written(environ: dict[str, str], fault: str) -> None:
    with pytest.raises(SettingsError) as raised:
        load(environ)
    assert [fault in each for each in raised.value.faults] == [True]


@pytest.mark.parametrize("depths", [("8000", "8000", "12000"), ("5000", "12000", "12000"), ("9000", "8000", "12000")])
def test_queue_thresholds_must_ascend(depths: tuple[str, str, str]) -> None:
    names = ("WARN", "SHED", "HARDSTOP")
    environ = {f"FG_DP_REDIS_QUEUE_{name}_DEPTH": depth for name, depth in zip(names, depths, strict=True)}
    with pytest.raises(SettingsError, match="must ascend"):
        load(environ)


@pytest.mark.parametrize(
    ("attempts", "window_s", "accepted"),
    [
        ("1", "1", True),
        ("2", "6", False),
        ("2", "7", True),
        ("5", "345", False),
        ("5", "414", False),
        ("5", "415", True),
        ("6", "702", False),
        ("6", "703", True),
        ("8", "900", False),
        ("1000000000", "900", False),
    ],
)
def test_a_window_that_cannot_hold_all_attempts_is_refused(attempts: str, window_s: str, accepted: bool) -> None:
    environ = {"FG_DP_RETRY_BUDGET_PER_EVENT": attempts, "FG_DP_RETRY_BUDGET_WINDOW_SEC": window_s}
    if accepted:
        assert load(environ).retry.window_seconds == int(window_s)
        return
    with pytest.raises(SettingsError, match="FG_DP_RETRY_BUDGET_WINDOW_SEC must be more than"):
        load(environ)


def test_the_last_attempt_of_every_accepted_budget_comes_within_its_window() -> None:
    """By the waits that are really made, at their longest."""
    for attempts in range(1, 12):
        waited_s = sum(delay_ms(failed, BACKOFF_MS, 1.0) for failed in range(1, attempts)) / 1_000
        retry = replace(load({}).retry, attempts_max=attempts)
        shortest = next(
            seconds for seconds in range(1, 10_000) if not unspendable(replace(retry, window_seconds=seconds))
        )
        assert waited_s < shortest <= waited_s + 1


def test_production_cannot_be_started_without_enforcement() -> None:
    with pytest.raises(SettingsError, match="FG_OPA_ENFORCE must be 1 when FG_ENV is prod"):
        load({"FG_ENV": "prod", "FG_OPA_ENFORCE": "0"})
    load({"FG_ENV": "prod"})
    load({"FG_ENV": "dev", "FG_OPA_ENFORCE": "0"})


def test_an_empty_variable_is_an_absent_one() -> None:
    assert load({"FG_HTTP_PORT": "", "FG_OPA_ENFORCE": ""}) == load({})


def test_no_repr_and_no_fault_shows_a_secret() -> None:
    settings = load(WITH_SECRETS)
    assert str(settings.postgres.dsn) == WITH_SECRETS["FG_POSTGRES_DSN"]
    for text in (
        repr(settings), repr(settings.postgres), repr(settings.streams), repr(settings.role_passwords),
        str([value for _variable, value, _source in effective(WITH_SECRETS)]),
    ):  # fmt: skip
        assert SECRET not in text
    for name, value in WITH_SECRETS.items():
        if not TABLE[name].secret:
            with pytest.raises(SettingsError) as raised:
                load({name: f"no-{value}"})
            assert SECRET not in str(raised.value)


def test_an_effective_value_keeps_what_is_not_secret() -> None:
    shown_values = {variable.name: (value, source) for variable, value, source in effective(WITH_SECRETS)}
    assert shown_values["FG_NATS_URL"] == ("nats://***@127.0.0.1:4222", "environment")
    assert shown_values["FG_ADMIN_POSTGRES_DSN"] == ("postgresql:///frostgate?***", "environment")
    assert shown_values["FG_API_KEY"] == ("***", "environment")
    assert shown_values["FG_DP_QUEUE_KEY_TEMPLATE"] == ("fg:q:{tenant_id}:{lane}", "default")
    assert shown_values["FG_OPA_ENFORCE"] == ("1", "default")


def test_every_default_parses_and_shows_as_itself() -> None:
    for variable in TABLE.values():
        if variable.default is not None and variable.name != "FG_DATA_DIR":
            value = variable.parse(variable.default)
            assert value == variable.parse(shown(variable, value))


def test_the_hash_follows_what_is_done_and_not_where_or_with_which_secret() -> None:
    plain = settings_hash(load({}))
    assert settings_hash(load(WITH_SECRETS)) == plain
    assert settings_hash(load({"FG_DATA_DIR": "/elsewhere", "FG_HTTP_PORT": "1", "FG_LOG_LEVEL": "debug"})) == plain
    for name, value in {
        "FG_OPA_ENFORCE": "0", "FG_DP_INTEGRITY_MODE": "required", "FG_DP_EVENT_MAX_AGE_SEC": "60",
        "FG_DP_REDIS_QUEUE_HARDSTOP_DEPTH": "12001", "FG_DP_CB_ERROR_RATE_THRESHOLD": "0.09",
        "FG_DP_INGEST_RPS_TIER_OVERRIDE_JSON": '{"free":11}',
    }.items():  # fmt: skip
        assert settings_hash(load({name: value})) != plain, name


def test_a_misspelled_variable_is_a_warning_with_the_nearest_name() -> None:
    assert unknown_variables({"FG_DP_DLQ_ALERT_DEPT": "1", "FGX": "1", "PATH": "/", "FG_HTTP_PORT": "1"}) == [
        "nothing reads FG_DP_DLQ_ALERT_DEPT; did you mean FG_DP_DLQ_ALERT_DEPTH?"
    ]
    assert unknown_variables({"FG_ZZZZZZZZZZ": "1"}) == ["nothing reads FG_ZZZZZZZZZZ"]


@pytest.mark.parametrize("query", ["ssl_cert_reqs=none", "ssl_cert_reqs=optional", "ssl_check_hostname=false"])
def test_production_refuses_a_coordination_store_that_is_not_verified(query: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load({"FG_ENV": "prod", "FG_REDIS_URL": f"rediss://u:p@valkey:6379/0?{query}"}, Service.EDGE)
    assert any("certificate verified" in fault for fault in refused.value.faults)
