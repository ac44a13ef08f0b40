"""What has happened in a schedule, in order, and the rules that it must obey."""

from collections import Counter
from dataclasses import dataclass, field

from simulate.attempts import Asker, Attempt, Received
from simulate.clock import Clock
from simulate.plan import Fault, Plan
from simulate.replica import MAX_RETAINED
from simulate.upstream import Call

#: Seconds that all replicas need at most to learn that a client has left, while nothing is broken.
_SETTLED = 1.0

#: Seconds after the end of an outage of Redis in which replicas may still act alone.
_AFTERMATH = 4.0

#: Seconds without a heartbeat after which replicas suspect each other, with one heartbeat on the way.
_SUSPECT = 8.0

#: Seconds for which a delivered image is kept for a retry, less some for its way.
_KEPT = 55.0

#: Seconds in which what a replica has sent is on its way to an upstream.
_WIRE = 0.01

#: Faults that hold up news.
_LATE = {"replica paused", "redis down", "redis slow", "redis stalls", "redis loses packets"}

#: Faults that leave no doubt about who is connected.
_HARMLESS = {"redis doubles packets", "store full", "disk full"}

#: Faults by which Redis loses data when they are over: all, or the latest.
_EMPTIED = {"redis empty", "redis falls back"}

#: Faults after which nobody may know of a job any more. A Redis that was away with its data is none.
_FORGETTING = {*_EMPTIED, "replica killed", "replica paused", "replica drained"}

#: Faults that explain an error, by its code.
_CAUSES = {
    "question_lost": _FORGETTING,
    "result_not_found": _FORGETTING | _LATE,
    "server_is_overloaded": _FORGETTING | _LATE | {"disk full"},
    "image_not_kept": {"store full"},
}

#: Requests to upstreams for one image: attempts, the first one counted.
_MAX_CALLS = 3


@dataclass(slots=True, eq=False)
class Group:
    """Equal requests of one caller under one idempotency key, or without one.

    Attributes:
        clients: Those that ask it.
        credit: For each client, how many images may be paid for on its behalf.
        calls: What was asked of upstreams.
        delivered: For each image, the attempts whose clients got it.
        lost: How often the loss was declared.
        interrupted: When a client was told that its replica stops, and that the image may have been made.
        repeated: How often the request was sent again after a failure that was paid for.
    """

    name: str
    key: str | None
    clients: list[Asker] = field(default_factory=list)
    credit: dict[Asker, int] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    delivered: dict[int, list[Attempt]] = field(default_factory=dict)
    lost: int = 0
    interrupted: list[float] = field(default_factory=list)
    repeated: int = 0

    @property
    def undelivered(self) -> list[Call]:
        return [call for call in self.calls if call.is_received and call.number not in self.delivered]

    def allow_one_more(self, client: Asker) -> None:
        """Allow the next request of a client to be paid for. It may have sent several that already are allowed."""
        self.credit[client] = max(self.credit.get(client, 0), client.wish.n)


GroupId = tuple[int, str, int, bool, bool, str | None]


class History:
    """The events of a schedule, what each request may cost, and every violation of a rule.

    Attributes:
        events: Lines for people.
        violations: Rules that were broken, each as a sentence.
        faults: How often each kind of fault has happened.
    """

    def __init__(self, clock: Clock, plan: Plan) -> None:
        self.events: list[tuple[float, str]] = []
        self.violations: list[str] = []
        self.faults: Counter[str] = Counter()
        self.groups: dict[GroupId, Group] = {}
        self.attempts: dict[str, Attempt] = {}
        self.written: dict[int, float] = {}
        self.kills: list[tuple[float, int]] = []
        self._clock, self._plan = clock, plan
        self._calls_by_job: Counter[str] = Counter()
        self._claims: set[str] = set()
        self._overtaken: set[str] = set()
        self._announced: dict[str, float] = {}
        self._asynchronous: set[str] = set()
        self._take_overs: Counter[str] = Counter()
        self._trouble = [
            fault for fault in plan.faults if fault.kind.startswith("redis") and "doubles" not in fault.kind
        ]

    # What happens.

    def note(self, text: str) -> None:
        self.events.append((self._clock.now, text))

    def violate(self, rule: str) -> None:
        self.note(f"VIOLATION: {rule}")
        self.violations.append(rule)

    def fault(self, kind: str) -> None:
        self.faults[kind] += 1

    def add_client(self, client: Asker) -> None:
        group = self.group_of(client)
        group.clients.append(client)
        if client.wish.is_async and client.wish.key is None:
            group.credit[client] = 0
        elif client.wish.key is None or len(group.clients) == 1:
            group.credit[client] = client.wish.n

    def group_of(self, client: Asker) -> Group:
        wish = client.wish
        identity: GroupId = wish.caller, wish.prompt, wish.n, wish.stream, wish.wants_url, wish.key
        name = f"caller {wish.caller}, {wish.prompt}, n {wish.n}" + (f", {wish.key}" if wish.key else "")
        return self.groups.setdefault(identity, Group(name, wish.key))

    def sent(self, attempt: Attempt, result_id: str) -> None:
        self.attempts[attempt.id] = attempt
        if attempt.client.wish.key is not None:
            self.fault("repeat with a key" if len(attempt.client.attempts) > 1 else "first with a key")
        elif len(attempt.client.attempts) > 1:
            self.fault("repeat with a count" if attempt.is_marked else "repeat without a mark")
        what = f"looks for {result_id}" if result_id else self.group_of(attempt.client).name
        retry = " (retry)" if attempt.is_marked else ""
        self.note(
            f"client {attempt.client.number} sends {attempt.id} to replica {attempt.replica.number}: {what}{retry}"
        )

    def arrived(self, attempt: Attempt) -> None:
        """Decide whether this request may be paid for although its client has asked before."""
        client = attempt.client
        group = self.group_of(client)
        if client.wish.is_async and group.key is None:
            # Whoever has lost its receipt has no way to join.
            group.credit[client] = group.credit.get(client, 0) + client.wish.n
        elif len(client.attempts) > 1 and self._may_pay_again(attempt, group):
            group.credit[client] = group.credit.get(client, 0) + client.wish.n

    def left(self, attempt: Attempt, *, vanishes: bool) -> None:
        self.fault("client vanishes" if vanishes else "client leaves")
        self.note(f"client {attempt.client.number} {'vanishes' if vanishes else 'leaves'}: {attempt.id}")

    def cut(self, attempt: Attempt) -> None:
        self.note(f"client {attempt.client.number} is cut off: {attempt.id}")

    def called(self, call: Call) -> None:
        attempt = self.attempts[call.job_id]
        group = self.group_of(attempt.client)
        group.calls.append(call)
        self.fault(f"upstream: {call.behavior.name}")
        self.note(f"replica {call.replica} asks upstream, call {call.number} for {call.job_id}: {call.behavior.name}")
        self._calls_by_job[call.job_id] += 1
        if self._calls_by_job[call.job_id] > self._allowed_calls(call.job_id, group) * attempt.client.wish.n:
            self.violate(f"{call.job_id} was sent upstream {self._calls_by_job[call.job_id]} times")
        self._check_that_somebody_waits(call, group)
        self._credit_overtaken(attempt, group)
        if call.behavior.is_paid:
            self._charge(call, group, attempt.client)

    def charged(self, task: object) -> None:
        """Check that a request is not charged whose client is known to have left."""
        for attempt in self.attempts.values():
            if (
                attempt.exchange.task is task
                and attempt.noticed_at is not None
                and attempt.noticed_at < self._clock.now
            ):
                self.violate(f"{attempt.id} was charged after its client had left")

    def answered(self, attempt: Attempt, received: Received) -> None:
        """Note what a replica has written, whether or not the client is still there."""
        group, client = self.group_of(attempt.client), attempt.client
        text = f"images {list(received.images)}" if received.images else f"{received.code} {received.message[:70]}"
        self.note(f"replica {attempt.replica.number} answers {attempt.id}: {text}")
        # A client that looks for its result by the id of the job is told here, and not by the job table.
        group.lost += received.code == "question_lost"
        if self._interrupted(received):
            group.interrupted.append(self._clock.now)
        if received.code not in {"ok", "accepted"}:
            self._check_that_error_is_explained(attempt, received)
            if group.key is None and (not group.undelivered or self._interrupted(received)):
                group.allow_one_more(client)
        for number in received.images:
            if not self._is_noticed(attempt):
                # Otherwise the replica knows that it has delivered nothing.
                self.written[number] = self._clock.now
            self._check_owner(number, group, attempt)

    def loss_reported(self, reader: str) -> None:
        """Note that the job table has reported a loss to a request: without a key, the next one may be paid for."""
        if (attempt := self.attempts.get(reader)) is not None:
            group = self.group_of(attempt.client)
            group.lost += 1
            if group.key is None:
                group.allow_one_more(attempt.client)

    def joined(self, request_id: str, job_id: str) -> None:
        """Note which job a request has joined.

        A retry takes what another client has left while its own first request seems to wait still. The other client
        then finds nothing, and its repeat is paid for.
        """
        attempt, owner = self.attempts[request_id], self.attempts[job_id].client
        group = self.group_of(attempt.client)
        if attempt.client.wish.is_async:
            self._asynchronous.add(job_id)
        if group.key is None and owner is not attempt.client and self._seems_to_ask_twice(attempt):
            group.credit[owner] = group.credit.get(owner, 0) + owner.wish.n

    def taken_over(self, job_id: str) -> None:
        """Note that another replica runs a job now, which begins to count its attempts."""
        self._take_overs[job_id] += 1

    def announced(self, job_id: str) -> None:
        """Note that the job table knows of a job that it may cost something."""
        self._announced.setdefault(job_id, self._clock.now)

    def claimed(self, request_id: str) -> None:
        """Note that the job table has a new job for a request, which one of its retries may have overtaken."""
        attempt = self.attempts[request_id]
        retries = [each for each in attempt.client.attempts if each.is_marked and each.number > attempt.number]
        if request_id not in self._claims and any(each.id in self._claims for each in retries):
            self._overtaken.add(request_id)
        self._claims.add(request_id)

    def received(self, attempt: Attempt, received: Received) -> None:
        """Note what has reached a client."""
        group = self.group_of(attempt.client)
        self.note(f"client {attempt.client.number} receives {received.code} of {attempt.id}")
        if received.images and len(set(received.images)) < len(received.images):
            self.violate(f"{attempt.id} brought an image twice")
        before = set(group.delivered)
        alone = self._acts_alone(group, 0.0)
        if group.key is not None and received.images and before and before.isdisjoint(received.images) and not alone:
            self.violate(f"another image under one key: {list(received.images)} after {sorted(before)}")
        for number in received.images:
            group.delivered.setdefault(number, []).append(attempt)

    # What each request may cost.

    def trouble_between(self, begin: float, end: float) -> list[Fault]:
        """Return the outages of Redis that may have made replicas act alone."""
        return [each for each in self._trouble if each.at <= end and begin <= each.end + _AFTERMATH]

    def _may_pay_again(self, attempt: Attempt, group: Group) -> bool:
        client = attempt.client
        if group.key is not None:
            return False
        earlier = client.attempts[:-1]
        if any(each.code == "ok" for each in earlier):
            return True
        return not attempt.is_marked and self._seems_to_ask_twice(attempt)

    def _seems_to_ask_twice(self, attempt: Attempt) -> bool:
        """Return whether the replicas may still take an earlier request of the same client for one that waits."""
        earlier = (each for each in attempt.client.attempts if each.number < attempt.number)
        return any(self._seems_connected(each) for each in earlier)

    def _allowed_calls(self, job_id: str, group: Group) -> int:
        """Return how often one image of a job may be asked for.

        Each new owner begins anew, and so does each repeat of a client that has left or was told of a failure.
        """
        attempts = [each for client in group.clients for each in client.attempts]
        unserved = sum(each.left_at is not None or each.code not in {"", "ok"} for each in attempts)
        return _MAX_CALLS * (1 + unserved + self._take_overs[job_id])

    def _credit_overtaken(self, attempt: Attempt, group: Group) -> None:
        """Allow a request that a retry has overtaken, and whose client is gone without a sign, to be paid for as well."""
        if attempt.id in self._overtaken:
            self._overtaken.remove(attempt.id)
            if group.key is None and attempt.left_at is not None and not self._is_noticed(attempt):
                group.credit[attempt.client] += attempt.client.wish.n

    def _is_noticed(self, attempt: Attempt) -> bool:
        """Return whether a replica knew that a client had left before the request could have gone out."""
        return attempt.noticed_at is not None and attempt.noticed_at < self._clock.now - _WIRE

    def _acts_alone(self, group: Group, first: float) -> bool:
        """Return whether replicas may have gone on without Redis, or Redis has forgotten what only it knew."""
        trouble = self.trouble_between(first - 2.0, self._clock.now)
        if any(fault.kind not in _EMPTIED for fault in trouble) and not self._plan.fail_closed:
            return True
        return any(fault.kind in _EMPTIED and self._is_forgotten(group, fault.end) for fault in trouble)

    def _is_forgotten(self, group: Group, at: float) -> bool:
        """Return whether no replica can restore what Redis knew of a request when it lost its data.

        A request that was not announced by then is not sent beside another one with its key.
        """
        if group.key is None:
            return True
        was_announced = any(self._announced.get(call.job_id, at) < at for call in group.calls)
        is_over = any(call.over_at is not None and call.over_at <= at for call in group.calls)
        return was_announced and (is_over or bool(self.kills) or self._slowed_down(at))

    def _seems_connected(self, earlier: Attempt) -> bool:
        """Return whether the replicas may still take a request for one whose client waits."""
        now = self._clock.now
        died_at = max((at for at, number in self.kills if number == earlier.replica.number), default=None)
        if not earlier.replica.is_alive:
            return died_at is None or now < died_at + _SUSPECT
        noticed_at = earlier.noticed_at
        if noticed_at is None:
            return True
        return now < noticed_at + _SETTLED or self._slowed_down(noticed_at)

    def _slowed_down(self, since: float) -> bool:
        """Return whether news of a client may have been late. An empty Redis is quick, and one that gets a command twice."""
        return any(fault.kind in _LATE and fault.end + 2 * _SETTLED >= since for fault in self._plan.faults)

    def _charge(self, call: Call, group: Group, client: Asker) -> None:
        for payer in (client, *group.clients):
            if group.credit.get(payer, 0) > 0:
                group.credit[payer] -= 1
                return
        if group.key is None and self._spent(call, group) > group.repeated:
            group.repeated += 1
            return
        if self._acts_alone(group, client.attempts[0].arrived_at or 0.0):
            return
        self.violate(f"call {call.number} for {group.name} is paid for once too often")

    def _spent(self, call: Call, group: Group) -> int:
        """Return how many requests of jobs before this one have brought nothing that a client could be given again.

        Without an idempotency key a failure is not remembered: whoever asks again wants another attempt. An image that
        was written into a connection whose client has just left is taken for delivered.
        """
        wasted = [each for each in group.calls[:-1] if each.is_wasted and each.job_id != call.job_id]
        attempt = self.attempts[call.job_id]
        gone = {each.job_id for each in group.undelivered if self._is_gone(each, is_retry=attempt.is_marked)}
        return len(wasted) + len(self._gone_with(gone, group))

    def _gone_with(self, gone: set[str], group: Group) -> list[Call]:
        """Return the images that are gone with the response of a job, also those that could not be had in time for it."""
        return [each for each in group.undelivered if each.job_id in gone]

    def _is_gone(self, call: Call, *, is_retry: bool) -> bool:
        """Return whether an image was written to a client that has not got it, and is not kept for this request."""
        written_at = self.written.get(call.number)
        if written_at is None:
            return False
        return not is_retry or self._clock.now >= written_at + _KEPT or self._has_no_room(call.replica)

    def _has_no_room(self, replica: int) -> bool:
        """Return whether a replica has kept so many results that the first delivered ones had to go."""
        calls = (call for group in self.groups.values() for call in group.calls)
        jobs = {call.job_id for call in calls if call.behavior.is_paid and call.replica == replica}
        return len(jobs) > MAX_RETAINED

    # Rules.

    def _check_owner(self, number: int, group: Group, attempt: Attempt) -> None:
        if not any(call.number == number for call in group.calls):
            self.violate(f"{attempt.id} got image {number} of another request or caller")

    def _check_that_somebody_waits(self, call: Call, group: Group) -> None:
        """Check that the first request of a job is not sent after all its clients are known to have left."""
        if self._calls_by_job[call.job_id] > 1 or any(client.wish.is_async for client in group.clients):
            return
        attempts = [each for client in group.clients for each in client.attempts if each.arrived_at is not None]
        are_gone = all(self._is_noticed(each) and each.replica.number == call.replica for each in attempts)
        if attempts and are_gone and not self._plan.faults:
            self.violate(f"call {call.number} was sent after its clients had left")

    def _interrupted(self, received: Received) -> bool:
        return "shutting down" in received.message and "may have been made" in received.message

    def _check_that_error_is_explained(self, attempt: Attempt, received: Received) -> None:
        was_handed_over = "taken over" in received.message and self._has_just_left_here(attempt)
        if not was_handed_over and not self._is_explained(attempt, received):
            self.violate(f"{attempt.id} got an error without a cause: {received.code} {received.message}")

    def _is_explained(self, attempt: Attempt, received: Received) -> bool:
        code, now = received.code, self._clock.now
        kinds = {fault.kind for fault in self._plan.faults if fault.at <= now}
        group = self.group_of(attempt.client)
        prompt = attempt.client.wish.prompt
        if "shutting down" in received.message:
            return "replica drained" in kinds
        if code == "result_not_found" and not any(call.behavior.is_paid for call in group.calls):
            # What cost nothing makes room for others.
            return True
        if code in _CAUSES:
            return not kinds.isdisjoint(_CAUSES[code])
        match code:
            case "idempotency_key_reused":
                return any(other is not group and other.key == group.key for other in self.groups.values())
            case "image_download_failed" | "spool_full" | "server_error":
                return bool(self._plan.failing_downloads.get(prompt) or "download fails" in self.faults)
        return "replica paused" in kinds or any(not call.behavior.has_image for call in group.calls)

    def _has_just_left_here(self, attempt: Attempt) -> bool:
        """Return whether the same client has left the same replica within the time in which a job is handed over."""
        earlier = [each for each in attempt.client.attempts if each.number < attempt.number]
        return any(
            each.replica is attempt.replica
            and each.noticed_at is not None
            and (attempt.arrived_at or 0.0) < each.noticed_at + _SETTLED
            for each in earlier
        )

    def check_end(self) -> None:
        """Check, after the last look for images, that none is lost and that no two clients share one of several."""
        for group in self.groups.values():
            for call in self.missing(group):
                self.violate(f"image {call.number} of {group.name} is lost: neither delivered nor waiting")
            if group.key is None:
                self._check_twins(group)

    def missing(self, group: Group) -> list[Call]:
        """Return the paid images that no client has got and whose loss has no excuse."""
        return [call for call in group.undelivered if not self._is_excused(call, group)]

    def _is_excused(self, call: Call, group: Group) -> bool:
        """Return whether the loss of an image was declared, or two faults at once explain it."""
        client = self.attempts[call.job_id].client
        is_asynchronous = client.wish.is_async or call.job_id in self._asynchronous
        if is_asynchronous and group.key is None and call.job_id not in {each.job_id for each in group.clients}:
            # Its receipts were lost, also that of a client which has joined a job of another one.
            return True
        if group.key is None and self._is_gone(call, is_retry=True):
            return True
        if any(each.job_id == call.job_id and each.number in self.written for each in group.calls if each is not call):
            # Of several images of one request, those that could be had were delivered.
            return True
        if self._was_cut_off(call, group):
            return True
        died = any(at >= call.at for at, _ in self.kills)
        if group.key is not None and self._acts_alone(group, 0.0):
            return True
        emptied = any(fault.kind in _EMPTIED and fault.end >= call.at for fault in self._trouble)
        if died and (group.lost or self._trouble):
            return True
        return emptied

    def _was_cut_off(self, call: Call, group: Group) -> bool:
        """Return whether the reply came at the very moment at which its replica had to stop, and said so."""
        return any(abs(at - call.received_at) < _WIRE for at in group.interrupted)

    def _check_twins(self, group: Group) -> None:
        """Check that equal requests get an image each. Only one that says it is a retry may get that of another client."""
        if not all(fault.kind in _HARMLESS for fault in self._plan.faults):
            return
        for number, attempts in group.delivered.items():
            clients = {each.client for each in attempts}
            if len(clients) > 1 and not any(each.is_marked or each.client.wish.is_async for each in attempts):
                self.violate(f"clients of {group.name} share image {number}")
