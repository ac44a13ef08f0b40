"""The client of an ASGI application that is called directly, without a server."""

import asyncio

from starlette.types import Message


class AsgiClient:
    """The other side of an ASGI call whose request has an empty body. `leave` closes the connection."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self._has_left = asyncio.Event()
        self._first = True

    async def receive(self) -> Message:
        if self._first:
            self._first = False
            return {"type": "http.request", "body": b"", "more_body": False}
        await self._has_left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    def leave(self) -> None:
        self._has_left.set()

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.sent[0]["headers"]}
