"""What `frostgate doctor` asks the dependencies and services, one check each."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec
from redis.exceptions import RedisError

from edge.redis_store import redis_client
from ops import redis_watch
from ops.commands.edge_client import EdgeClient
from ops.instance import Stack
from ops.settings import Settings
from schemas.answers import NoAnswer
from sinks import attest
from sinks.faults import UnexpectedAnswerError
from sinks.migrate import packaged
from sinks.pg import Pool
from sinks.settings import PostgresSettings
from streams import topology
from streams.jetstream import ApiError, JetStream
from streams.settings import StreamSettings

ANSWER_S_MAX = 5.0
_APPLIED = "SELECT name FROM schema_migrations"
_EDGE_USER = "edge"
"""May ask for streams and not for consumers."""


class Check(NamedTuple):
    """One thing looked at; no findings means that it is as it should be."""

    name: str
    target: str
    findings: list[str]


class _Health(msgspec.Struct):
    reasons: list[str]
    degraded: list[str] = []


class Deployment(NamedTuple):
    """The addresses to look at, empty where there is none."""

    streams: StreamSettings
    nats_url: str
    admin_postgres_dsn: str
    service_postgres_dsn: str
    redis_url: str
    url: str
    admin_url: str
    env: str


def deployment_of(settings: Settings, stack: Stack | None) -> Deployment:
    """What the environment names, and for the rest the running stack."""
    return Deployment(
        settings.streams,
        settings.streams.url or (stack.nats_url if stack else ""),
        settings.admin_postgres_dsn or (stack.postgres_dsn if stack else ""),
        settings.postgres.dsn,
        settings.redis_url or (stack.redis_url if stack else ""),
        settings.url or (stack.url if stack else ""),
        stack.admin_url if stack else "",
        settings.env,
    )


async def look(deployment: Deployment) -> list[Check]:
    """Ask everything that has an address, all at once."""
    return list(await asyncio.gather(*_checks(deployment)))


def _checks(deployment: Deployment) -> Iterator[Awaitable[Check]]:
    dsn, service_dsn = deployment.admin_postgres_dsn, deployment.service_postgres_dsn
    if dsn:
        yield _check("postgres migrations", dsn, lambda: _database(dsn, _missing_migrations))
    if service_dsn:
        yield _check("postgres isolation", service_dsn, lambda: _database(service_dsn, attest.findings))
    if deployment.nats_url:
        yield _check("nats topology", deployment.nats_url, lambda: _topology(deployment))
    if deployment.redis_url:
        yield _check("redis", deployment.redis_url, lambda: _redis(deployment))
    if deployment.url:
        yield _check("edge", deployment.url, lambda: asyncio.to_thread(_health, deployment.url))
    if deployment.admin_url:
        yield _check("stack", deployment.admin_url, lambda: asyncio.to_thread(_health, deployment.admin_url))


async def _check(name: str, address: str, ask: Callable[[], Awaitable[list[str]]]) -> Check:
    """The check; an answer that does not come, or comes as an error, is a finding."""
    try:
        async with asyncio.timeout(ANSWER_S_MAX):
            findings = await ask()
    except (NoAnswer, OSError, RedisError, ApiError, UnexpectedAnswerError) as problem:
        findings = [_sentence(problem)]
    return Check(name, _without_user(address), findings)


async def _database(dsn: str, ask: Callable[[Pool], Awaitable[list[str]]]) -> list[str]:
    pool = await Pool.open(PostgresSettings(dsn=dsn, pool_size=2, statement_cache_size=0))
    try:
        return await ask(pool)
    finally:
        await pool.close()


async def _missing_migrations(pool: Pool) -> list[str]:
    async with pool.connection() as connection:
        applied = {row["name"] for row in await connection.fetch(_APPLIED)}
    missing = [migration.name for migration in packaged() if migration.name not in applied]
    return [f"migration {name} is not applied: run `frostgate migrate`" for name in missing]


async def _topology(deployment: Deployment) -> list[str]:
    """Where live streams and consumers differ from what is declared."""
    user = urlsplit(deployment.nats_url.split(",")[0]).username or "admin"
    jetstream = await JetStream.connect(deployment.nats_url, user)
    try:
        found = await topology.stream_drift(jetstream, deployment.streams)
        if user != _EDGE_USER:
            found += await topology.consumer_drift(jetstream, deployment.streams)
    finally:
        await jetstream.close()
    return found


async def _redis(deployment: Deployment) -> list[str]:
    client = redis_client(deployment.redis_url)
    try:
        return await redis_watch.drift(client, deployment.env)
    finally:
        await client.aclose()


def _health(url: str) -> list[str]:
    client = EdgeClient(url, "", answer_seconds_max=ANSWER_S_MAX)
    try:
        answer = client.get("/readyz")
        health = msgspec.json.decode(answer.body, type=_Health)
    except msgspec.DecodeError:
        return ["does not say whether it is ready: is that the right address?"]
    finally:
        client.close()
    return [*health.reasons, *(f"degraded: {each}" for each in health.degraded)]


def _sentence(problem: Exception) -> str:
    """What happened. Errors of dependencies can quote an address with its password, so only ours are quoted."""
    match problem:
        case UnexpectedAnswerError() | ApiError():
            return f"answers with an error: {problem}"
        case _:
            return "does not answer, or refuses the login"


def _without_user(address: str) -> str:
    parts = urlsplit(address.split(",", maxsplit=1)[0])
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
