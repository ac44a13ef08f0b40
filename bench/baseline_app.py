"""Read the request and answer "ok": the cost of uvicorn alone, with the smallest possible ASGI app."""

from uvicorn._types import ASGIReceiveCallable, ASGISendCallable, Scope

_HEADERS = [(b"content-type", b"text/plain"), (b"content-length", b"2")]


async def app(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    while (message := await receive())["type"] == "http.request" and message["more_body"]:
        pass
    await send({"type": "http.response.start", "status": 200, "headers": _HEADERS, "trailers": False})
    await send({"type": "http.response.body", "body": b"ok", "more_body": False})
