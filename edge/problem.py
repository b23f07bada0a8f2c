"""Refusals as RFC 9457 problem documents. What the sender sent is never part of one."""

import msgspec

from schemas.codes import TABLE, Code, Retry

RETRY_AFTER_MS = 1_000
"""When to try the same bytes again. Every cause of such a refusal is looked at anew at least once a second."""


class Finding(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing wrong. `field` is the envelope's field or the header at fault, None when it is neither.

    `retry_after_ms` is when the same event may pass, where whoever refused it knows; 0 where it does not.
    """

    error_code: Code
    field: str | None
    retry_after_ms: int = 0


Findings = tuple[Finding, ...]
"""Never empty; the first one decides the status."""


class Problem(msgspec.Struct, frozen=True):
    """The body of every refusal. `error_code` is the first of `errors`; `instance` names the request."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    error_code: Code
    trace_id: str | None
    retry_after_ms: int | None
    errors: Findings


class RefusedLine(msgspec.Struct, frozen=True):
    """A refused line of a batch, in the words of a problem document."""

    line: int
    status: int
    error_code: Code
    detail: str
    errors: Findings
    retry_after_ms: int | None


encode = msgspec.json.Encoder().encode


def finding(code: Code, field: str | None = None, retry_after_ms: int = 0) -> Findings:
    """One finding as the whole list."""
    return (Finding(code, field, retry_after_ms),)


def status_of(findings: Findings) -> int:
    return TABLE[findings[0].error_code].status


def retry_after_ms(findings: Findings) -> int | None:
    """How long to wait before sending the same event again, None when that is pointless."""
    first = findings[0]
    if TABLE[first.error_code].retry is Retry.NEVER:
        return None
    return first.retry_after_ms or RETRY_AFTER_MS


def problem(findings: Findings, request_id: str, trace_id: str | None) -> bytes:
    """The problem document of a refused request."""
    code = findings[0].error_code
    return encode(
        Problem(
            type=f"urn:frostgate:error:{code}",
            title=TABLE[code].title,
            status=TABLE[code].status,
            detail=_detail(findings),
            instance=f"urn:frostgate:request:{request_id}",
            error_code=code,
            trace_id=trace_id,
            retry_after_ms=retry_after_ms(findings),
            errors=findings,
        )
    )


def refused_line(line: int, findings: Findings) -> bytes:
    """The result of a refused line, without the line's end."""
    return encode(
        RefusedLine(
            line=line,
            status=status_of(findings),
            error_code=findings[0].error_code,
            detail=_detail(findings[:1]),  # a batch has many lines, and `errors` names the other findings
            errors=findings,
            retry_after_ms=retry_after_ms(findings),
        )
    )


def _detail(findings: Findings) -> str:
    """Every title once, then what to do."""
    titles = "; ".join(dict.fromkeys(TABLE[one.error_code].title for one in findings))
    match TABLE[findings[0].error_code].retry:
        case Retry.NEVER:
            return f"{titles}. The same bytes will be refused again."
        case Retry.SAME_BYTES:
            return f"{titles}. Send the same bytes again after retry_after_ms."
        case Retry.NEW_SIGNATURE:
            return f"{titles}. Sign the same bytes again and send them after retry_after_ms."
