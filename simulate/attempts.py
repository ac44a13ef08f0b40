"""The requests of clients, and what the responses say."""

from dataclasses import dataclass, field
from typing import Protocol

from simulate.plan import Wish
from simulate.replica import Exchange, Replica


class Asker(Protocol):
    """A client, as far as its requests tell of it.

    Attributes:
        job_id: Under which it can look for its result, if it knows that.
    """

    number: int
    wish: Wish
    attempts: "list[Attempt]"
    job_id: str


@dataclass(slots=True, eq=False)
class Attempt:
    """One request of a client.

    Attributes:
        is_marked: It says that it is a retry.
        arrived_at: When it reached the replica.
        left_at: When the client left, if it did before it had the response.
        answered_at: When the replica had written the whole response.
        is_over: The client waits no more.
        code: What the response said: `ok`, `accepted` or the code of an error; empty before it was received.
    """

    number: int
    client: Asker
    replica: Replica
    is_marked: bool
    exchange: Exchange = field(init=False)
    arrived_at: float | None = None
    left_at: float | None = None
    answered_at: float | None = None
    is_over: bool = False
    code: str = ""

    @property
    def id(self) -> str:
        return f"req_{self.number}"

    @property
    def noticed_at(self) -> float | None:
        """When the replica noticed that the client has left."""
        return self.exchange.disconnected_at


@dataclass(frozen=True, slots=True)
class Received:
    """What a response says: images by the upstream requests that made them, or an error."""

    code: str
    images: tuple[int, ...] = ()
    message: str = ""
    job_id: str = ""
    may_repeat: bool = False
