"""The times by which replicas watch each other."""

from dataclasses import dataclass
from functools import cached_property

#: Arguments of job_table.lua, and the timings that they hold.
_ARGUMENTS = {
    "suspect_after": "suspect_after",
    "dead_after": "dead_after",
    "reader_lease": "reader_lease",
    "delivery_lease": "delivery_lease",
    "delivered_for": "delivered",
    "settled_after": "settled_after",
    "silent_after": "silent_after",
}


@dataclass(frozen=True)
class SharingTimings:
    """Times in seconds by which replicas watch each other.

    Attributes:
        heartbeat: Between two heartbeats of a replica.
        suspect_after: Without a heartbeat, after which a replica may be dead.
        dead_after: Without a heartbeat, after which a replica is taken for dead.
        poll: Between two looks at a job of another replica.
        reader_lease: How long a replica counts as a reader after a look.
        delivery_lease: How long an outcome is kept at least, once a replica sends it.
        delivered: How long a delivered result is kept for requests that say they are retries.
    """

    heartbeat: float = 2.0
    suspect_after: float = 5.0
    dead_after: float = 15.0
    poll: float = 0.5
    reader_lease: float = 15.0
    delivery_lease: float = 60.0
    delivered: float = 60.0

    @property
    def settled_after(self) -> float:
        """Seconds after which a Redis that was empty is known to hold the records of all owners that live."""
        return 2 * self.heartbeat

    @property
    def silent_after(self) -> float:
        """Seconds without a command after which Redis was away, so that the silence of an owner proves nothing.

        A shorter time takes no owner for dead: its last heartbeat came just before, and its next comes just after that.
        """
        return max(self.heartbeat, self.dead_after - 2 * self.heartbeat)

    @cached_property
    def arguments(self) -> dict[str, int]:
        """The timings as job_table.lua takes them, in milliseconds."""
        return {argument: round(getattr(self, name) * 1000) for argument, name in _ARGUMENTS.items()}


DEFAULT_TIMINGS = SharingTimings()
