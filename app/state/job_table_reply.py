"""What the commands of job_table.lua return."""

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple, Self


class TableAnswer(StrEnum):
    """What the job table says to a command. job_table.lua has the same words under the same names."""

    #: It is done, perhaps by an earlier copy of the same command.
    OK = "ok"
    #: The request has a new job.
    CLAIMED = "claimed"
    #: The request has joined a job of another replica, or an outcome that is in the table.
    JOINED = "joined"
    #: The request has joined a job that the asking replica runs, or has just finished.
    JOINED_OWN = "joined_own"
    #: The idempotency key belongs to a different request.
    KEY_REUSED = "key_reused"
    #: The job is run by a replica that gives heartbeats.
    IN_FLIGHT = "in_flight"
    #: Something was sent to an upstream for the job, so it may have cost something.
    SUBMITTED = "submitted"
    #: The job has an outcome.
    DONE = "done"
    #: Other replicas wait for an outcome of the job, or a client of another replica does.
    AWAITED = "awaited"
    #: Another replica has taken the job over.
    NOT_OWNER = "not_owner"
    #: The replica that ran the job has died before anything was sent to an upstream.
    ORPHANED = "orphaned"
    #: The replica that ran the job has died after that, so what was paid for is lost.
    LOST = "lost"
    #: There is no record of the job, or it belongs to another caller.
    UNKNOWN = "unknown"
    #: Redis may have lost data a moment ago, and owners may not have restored their records yet.
    SETTLING = "settling"
    #: Redis has not answered, or nothing is shared. The only one that is not in job_table.lua.
    NO_REPLY = ""


class TableReply(NamedTuple):
    """What a command says, with an id, an outcome or a time.

    `milliseconds_left`: for how long the record will be kept, where the command tells it.
    """

    answer: TableAnswer
    value: bytes = b""
    milliseconds_left: int = 0

    @classmethod
    def parse(cls, reply: Sequence[bytes] | None) -> Self:
        """Read what Redis has returned, None where it has not."""
        if reply is None:
            return cls(TableAnswer.NO_REPLY)
        value = reply[1] if len(reply) > 1 else b""
        left = int(reply[2]) if len(reply) > 2 else 0
        return cls(TableAnswer(reply[0].decode()), value, left)


class HeartbeatReply(NamedTuple):
    """Ids of jobs that the table does not know as this replica's, and of those whose outcome others wait for."""

    unknown: set[bytes]
    wanted: set[bytes]

    @classmethod
    def parse(cls, reply: Sequence[bytes]) -> Self:
        """Read the reply to a heartbeat: an answer, the first ids, an empty text, and the other ids."""
        _, *ids = reply
        middle = ids.index(b"")
        return cls(set(ids[:middle]), set(ids[middle + 1 :]))
