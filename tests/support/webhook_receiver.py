"""A receiver of webhooks on loopback that answers as a test says, and keeps every request."""

import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import orjson

Answer = bytes | Callable[[socket.socket, threading.Event], None]


def status(code: int, *headers: str) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {code} Reason", "Content-Length: 0", "Connection: close", *headers, "", ""]).encode()


OK = status(200)


def silence(connection: socket.socket, closing: threading.Event) -> None:
    """Answer nothing until the sender gives up, or the test ends."""
    connection.settimeout(0.02)
    while not closing.is_set():
        with suppress(TimeoutError):
            if not connection.recv(1):
                return


def endless(connection: socket.socket, closing: threading.Event) -> None:
    """Accept the webhook, and send a body without an end."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while not closing.is_set():
        connection.sendall(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")


def endless_head(connection: socket.socket, closing: threading.Event) -> None:
    """Send a head without an end."""
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    while not closing.is_set():
        connection.sendall(b"X-Header: " + b"x" * 1000 + b"\r\n")


def cut_off(connection: socket.socket, closing: threading.Event) -> None:
    """Close the connection without an answer."""


@dataclass(frozen=True)
class ReceivedWebhook:
    """A request as it arrived."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def event(self) -> Any:
        return orjson.loads(self.body)


@dataclass
class WebhookReceiver:
    """Each request gets the next answer, and all later ones the last."""

    answers: list[Answer]
    port: int = 0
    host: str = "127.0.0.1"
    received: list[ReceivedWebhook] = field(default_factory=list)
    closing: threading.Event = field(default_factory=threading.Event)
    _news: threading.Condition = field(default_factory=threading.Condition)

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}/hooks"

    def wait(self, count: int = 1, seconds: float = 30) -> list[ReceivedWebhook]:
        """Return the requests when there are so many."""
        with self._news:
            assert self._news.wait_for(lambda: len(self.received) >= count, seconds), self.received
        return self.received

    def answer(self, connection: socket.socket) -> None:
        stream = connection.makefile("rb")
        start = stream.readline().decode()
        headers = {}
        while line := stream.readline().strip():
            name, _, value = line.decode().partition(":")
            headers[name.lower()] = value.strip()
        body = stream.read(int(headers.get("content-length", 0)))
        if not start:
            return
        with self._news:
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            self.received.append(ReceivedWebhook(start.split()[1], headers, body))
            self._news.notify_all()
        if isinstance(answer, bytes):
            connection.sendall(answer)
        else:
            answer(connection, self.closing)


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64


@contextmanager
def run_receiver(*answers: Answer, host: str = "127.0.0.1", port: int = 0) -> Iterator[WebhookReceiver]:
    """Run a receiver until the end of the block."""
    receiver = WebhookReceiver(list(answers or (OK,)), host=host)

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            try:
                receiver.answer(self.request)
            except OSError:
                return  # The sender has closed the connection.

    with _Server((host, port), Handler) as server:
        receiver.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield receiver
        finally:
            receiver.closing.set()
            server.shutdown()
            thread.join()
