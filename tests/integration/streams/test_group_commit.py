"""What the publisher promises of every message, on a real broker."""

import asyncio
import dataclasses
from collections import Counter
from collections.abc import Awaitable, Callable

from schemas.answers import Duplicate, PublishOutcome, Refused, Stored
from schemas.codes import Code
from schemas.meter import Meter
from streams.committer import GroupCommitter, unbarred
from streams.jetstream import JetStream
from streams.settings import StreamSettings

MakeStream = Callable[..., Awaitable[str]]


async def _stored(jetstream: JetStream, stream: str) -> int:
    info = await jetstream.api(f"STREAM.INFO.{stream}", None, dict)
    return int(info["state"]["messages"])


async def test_concurrent_messages_are_stored_once_each_under_their_own_sequence(
    admin: JetStream, make_stream: MakeStream, stream_settings: StreamSettings, tally: Meter
) -> None:
    name = await make_stream(5_000)
    committer = GroupCommitter(admin, stream_settings, name, tally, unbarred)
    outcomes = await asyncio.gather(
        *(committer.submit(f"{name}.t{i % 7}", f"t{i % 7}/{i}", str(i).encode(), "") for i in range(2_000))
    )
    assert all(isinstance(outcome, Stored) for outcome in outcomes)
    for i in (0, 1, 999, 1_999):
        outcome = outcomes[i]
        assert isinstance(outcome, Stored)
        message = await admin.api(f"STREAM.MSG.GET.{name}", {"seq": outcome.seq}, dict)
        assert message["message"]["subject"] == f"{name}.t{i % 7}"
    assert sorted(o.seq for o in outcomes if isinstance(o, Stored)) == list(range(1, 2_001))


async def test_a_second_publish_of_an_id_answers_the_sequence_of_the_first(
    admin: JetStream, make_stream: MakeStream, stream_settings: StreamSettings, tally: Meter
) -> None:
    name = await make_stream(5_000)
    committer = GroupCommitter(admin, stream_settings, name, tally, unbarred)
    first = await committer.submit(f"{name}.a", "a/1", b"{}", "")
    assert first == Stored(name, 1)
    assert await committer.submit(f"{name}.a", "a/1", b"{}", "") == Duplicate(name, 1)


async def test_a_duplicate_in_a_batch_takes_nobody_down_with_it(
    admin: JetStream, make_stream: MakeStream, stream_settings: StreamSettings, tally: Meter
) -> None:
    name = await make_stream(5_000)
    committer = GroupCommitter(admin, stream_settings, name, tally, unbarred)
    await committer.submit(f"{name}.a", "a/7", b"{}", "")
    ids = [f"a/{i}" for i in range(40)] + ["a/3", "a/3"]
    outcomes = await asyncio.gather(*(committer.submit(f"{name}.a", i, b"{}", "") for i in ids))
    assert Counter(type(outcome) for outcome in outcomes) == {Stored: 39, Duplicate: 3}
    assert await _stored(admin, name) == 40


async def test_a_tenant_at_its_cap_is_refused_and_the_others_are_stored(
    admin: JetStream, make_stream: MakeStream, stream_settings: StreamSettings, tally: Meter
) -> None:
    name = await make_stream(10)
    committer = GroupCommitter(admin, stream_settings, name, tally, unbarred)
    hot = [committer.submit(f"{name}.hot", f"hot/{i}", b"{}", "") for i in range(25)]
    cold = [committer.submit(f"{name}.cold{i}", f"cold{i}/0", b"{}", "") for i in range(25)]
    refused = [outcome for outcome in await asyncio.gather(*hot) if isinstance(outcome, Refused)]
    assert refused == [Refused(Code.INGEST_BACKPRESSURE_HARDSTOP)] * 15
    assert all(isinstance(outcome, Stored) for outcome in await asyncio.gather(*cold))
    assert await _stored(admin, name) == 35


async def test_a_refused_id_is_not_burnt(
    admin: JetStream, make_stream: MakeStream, stream_settings: StreamSettings, tally: Meter
) -> None:
    name = await make_stream(1)
    committer = GroupCommitter(admin, stream_settings, name, tally, unbarred)
    assert await committer.submit(f"{name}.a", "a/1", b"{}", "") == Stored(name, 1)
    assert isinstance(await committer.submit(f"{name}.a", "a/2", b"{}", ""), Refused)
    await admin.api(f"STREAM.MSG.DELETE.{name}", {"seq": 1}, dict)
    assert isinstance(await committer.submit(f"{name}.a", "a/2", b"{}", ""), Stored)


async def test_a_stream_that_does_not_exist_refuses_without_effect(
    admin: JetStream, stream_settings: StreamSettings, tally: Meter
) -> None:
    committer = GroupCommitter(admin, stream_settings, "NOWHERE", tally, unbarred)
    outcomes: list[PublishOutcome] = await asyncio.gather(
        *(committer.submit("nowhere.a", f"a/{i}", b"{}", "") for i in range(3))
    )
    assert outcomes == [Refused(Code.STREAM_UNAVAILABLE)] * 3


async def test_without_a_connection_nothing_is_sent_and_the_caller_knows_at_once(
    servers: object, stream_settings: StreamSettings, tally: Meter
) -> None:
    del servers
    jetstream = await JetStream.connect(stream_settings.url, "admin")
    await jetstream.close()
    committer = GroupCommitter(jetstream, stream_settings, "ANY", tally, unbarred)
    assert await committer.submit("any.a", "a/1", b"{}", "") == Refused(Code.STREAM_UNAVAILABLE)


async def test_a_silent_stream_leaves_the_outcome_open(
    admin: JetStream, stream_settings: StreamSettings, tally: Meter
) -> None:
    _, inbox = await admin.subscribe("silent", _ignore)
    committer = GroupCommitter(
        admin, dataclasses.replace(stream_settings, publish_timeout_ms=50), "ANY", tally, unbarred
    )
    assert await committer.submit(inbox, "a/1", b"{}", "") == Refused(Code.OUTCOME_UNKNOWN)


async def _ignore(message: object) -> None:
    del message
