"""Calling the application as the server does."""

from typing import Any, NamedTuple

import msgspec

from edge.app import EdgeApp


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def document(self) -> Any:
        return msgspec.json.decode(self.body)

    @property
    def lines(self) -> list[Any]:
        return [msgspec.json.decode(line) for line in self.body.splitlines()]


class Client:
    """Calls the application as the server does, with the whole body at once."""

    def __init__(self, app: EdgeApp) -> None:
        self._app = app

    async def __call__(self, method: str, path: str, body: bytes = b"", **fields: str) -> Answer:
        kind = "application/x-ndjson" if path.endswith("batch") else "application/json"
        named = {"host": "edge", "authorization": "Bearer key"} | {
            name.replace("_", "-"): value for name, value in fields.items()
        }
        if method == "POST":
            named = {"content-type": kind, "content-length": str(len(body))} | named
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        headers = [(name.encode(), value.encode()) for name, value in named.items()]
        scope = {"type": "http", "method": method, "raw_path": path.encode(), "headers": headers}
        await self._app(scope, receive, send)
        start, *rest = sent
        answered = {name.decode(): value.decode() for name, value in start["headers"]}
        return Answer(start["status"], answered, b"".join(part["body"] for part in rest))
