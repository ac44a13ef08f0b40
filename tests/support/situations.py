"""Schedules that are about one situation, which seldom comes by chance: what a plan is changed to."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from random import Random

from simulate.plan import Fault, Plan, Wish
from simulate.upstream import BEHAVIORS, GOOD

Situation = Callable[[Plan, Random], None]


def _begin(
    plan: Plan,
    *faults: Fault,
    clients: int = 1,
    seconds: tuple[float, float] = (0.1, 8.0),
    is_young: bool = False,
    **wish: object,
) -> None:
    """Let some equal clients ask for one good image, while only these faults happen."""
    prompt = plan.wishes[0].prompt
    first = Wish(0, prompt, "none", 0.5, patience=[None] * 3, leaves_after_steps=[None] * 3, vanishes=[False] * 3)
    first = replace(first, **wish)  # type: ignore[arg-type]  # reason: fields of a wish
    plan.wishes[:] = [deepcopy(first) for _ in range(clients)]
    # Not before retries and keys have no reason to wait, or just then.
    later = 0.0 if is_young else 6.0
    plan.faults[:] = [replace(fault, at=fault.at + later) for fault in faults]
    for each in plan.wishes:
        each.starts_at += later
    plan.behaviors.clear()
    plan.behaviors[prompt] = [replace(GOOD[plan.seed % len(GOOD)], seconds=seconds)]
    plan.failing_downloads.clear()
    plan.held.clear()
    plan.is_shared, plan.keepalive_after = True, 240.0


def a_client_leaves_at_a_heartbeat(plan: Plan, chance: Random) -> None:
    """Heartbeats are given every two seconds."""
    _begin(plan, starts_at=0.5, patience=[1.5 - 0.03 * chance.random(), None, None], pauses=[1.1, 1.1, 1.1])


def the_reply_to_a_published_failure_is_lost(plan: Plan, chance: Random) -> None:
    """Let its client come back while Redis is taken for down, and later another one, which was hardly there."""
    pause = 2.7 + 0.8 * chance.random()
    _begin(plan, clients=2, seconds=(1.0, 1.2), mark="count", patience=[0.8, None, None], pauses=[pause, 3.0, 3.0])
    plan.held.update({("publish", 3): (0.0, 2.0), ("publish", 4): (0.0, 2.0)})
    plan.failing_downloads[plan.wishes[0].prompt] = ["gone"]
    hasty = plan.wishes[1]
    hasty.starts_at -= 0.3
    hasty.patience[0], hasty.leaves_after_steps[0], hasty.pauses[0] = 0.1, 1, 8.0


def a_replica_dies_while_it_sends_the_result_of_another(plan: Plan, chance: Random) -> None:
    death = Fault("replica killed", 2.0 + 9 * chance.random(), 20.0, replica=plan.seed % 3)
    _begin(plan, death, starts_at=0.2, patience=[0.5, None, None], pauses=[1.5, 10.0, 10.0], stalls=3.0)


def the_news_of_a_leave_is_slow(plan: Plan, chance: Random) -> None:
    """Let it be sent once more, and let the result be published meanwhile."""
    _begin(plan, seconds=(2.1, 2.3), patience=[1.0, None, None], pauses=[9.0, 3.0, 3.0])
    plan.held["publish", 2] = 1.5 + 0.3 * chance.random(), 0.0


def a_replica_is_paused_while_it_claims_under_a_key(plan: Plan, chance: Random) -> None:
    slow = Fault("redis slow", 3.4 + chance.random(), 5 + 3 * chance.random())
    pause = Fault("replica paused", 4.5 + 3 * chance.random(), 17 + 7 * chance.random(), replica=plan.seed % 3)
    _begin(
        plan,
        slow,
        pause,
        clients=3,
        is_young=True,
        mark="key and count",
        key="key",
        starts_at=1.0,
        pauses=[3.0, 3.0, 9.0],
    )
    plan.fail_closed = True


def a_client_leaves_when_its_key_is_claimed(plan: Plan, chance: Random) -> None:
    """And comes back at once. Redis is empty at first, so keys are claimed four seconds after the first command."""
    _begin(plan, clients=2, is_young=True, mark="key", key="key", starts_at=1.0, pauses=[0.05, 3.0, 3.0])
    plan.held.update({("publish", 1): (0.05, 0.05), ("abandon", 1): (0.0, 0.2)})
    first, second = plan.wishes
    first.patience[0] = 4.01 + 0.06 * chance.random()
    second.starts_at = 5.1 + 0.15 * chance.random()


def a_client_joins_and_leaves_while_its_result_is_published(plan: Plan, chance: Random) -> None:
    stays = 0.02 + 0.2 * chance.random()
    pause = 1.45 + 0.3 * chance.random()
    # Between two heartbeats, which would mend it.
    _begin(plan, starts_at=0.1, seconds=(2.2, 2.3), patience=[0.8, stays, None], pauses=[pause, 3.0, 3.0])
    plan.held.update({("publish", 4): (0.5, 0.0), ("claim", 2): (0.0, 0.3)})


def a_client_joins_and_is_gone_before_the_run_begins(plan: Plan, chance: Random) -> None:
    """Let the run before be called off, while its announcement is on its way."""
    stays = 0.02 + 0.05 * chance.random()
    _begin(plan, stream=True, patience=[0.1 + 0.05 * chance.random(), stays, None], pauses=[0.02, 1.5, 3.0])
    plan.held.update({("publish", 1): (0.3, 0.1), ("claim", 2): (0.0, 0.1 + 0.3 * chance.random())})


def a_replica_drains_what_it_wrote_into_a_dead_connection(plan: Plan, chance: Random) -> None:
    drained = Fault("replica drained", 2.5 + chance.random(), 1.0, replica=plan.seed % 3)
    _begin(plan, drained, seconds=(1.0, 1.2), mark="count", patience=[0.8, None, None], pauses=[9.0, 3.0, 3.0])
    plan.wishes[0].vanishes[0] = True


def two_clients_ask_at_once_for_an_image_that_has_to_be_had_again(plan: Plan, chance: Random) -> None:
    _begin(plan, clients=3, seconds=(1.0, 1.2), patience=[None] * 3, pauses=[30.0] * 3)
    plan.failing_downloads[plan.wishes[0].prompt] = ["gone"]
    plan.wishes[0].patience[0] = 0.8
    for wish in plan.wishes[1:]:
        wish.starts_at += 4.5 + 0.01 * chance.random()


def a_key_comes_with_two_prompts(plan: Plan, chance: Random) -> None:
    _begin(plan, clients=2, mark="key", key="key", starts_at=4.0 * chance.random())
    plan.wishes[1].wants_url = True


def an_owner_dies_when_its_claim_has_come_once_more(plan: Plan, chance: Random) -> None:
    """Let the first copy of it arrive behind the second, and behind the announcement."""
    death = Fault("replica killed", 2.3 + 1.5 * chance.random(), 30.0, replica=plan.seed % 3)
    _begin(plan, death, starts_at=0.75, seconds=(5.0, 8.0), pauses=[10.0, 3.0, 3.0])
    plan.held["claim", 1] = 1.45, 0.0


def a_client_vanishes_when_its_result_is_published(plan: Plan, chance: Random) -> None:
    """Let it leave before, and come back just then."""
    pause = 0.02 + 0.12 * chance.random()
    _begin(plan, seconds=(1.0, 1.02), mark="count", patience=[0.97, 0.1, None], pauses=[pause, 0.5, 3.0], stalls=3.0)
    plan.wishes[0].vanishes[1] = True


def a_replica_stops_while_it_downloads(plan: Plan, chance: Random) -> None:
    stop = Fault("replica drained", 1.3, 0.3 + 0.1 * chance.random(), replica=plan.seed % 3)
    _begin(plan, stop, seconds=(1.0, 1.1), mark="count", pauses=[9.0, 3.0, 3.0])


def a_retry_takes_what_another_client_has_left(plan: Plan, chance: Random) -> None:
    """Let the first request of the retry seem to wait still, or let it be known that its client has left."""
    _begin(plan, clients=2, seconds=(6.0, 8.0), pauses=[3.0] * 3)
    first, second = plan.wishes
    first.mark, first.patience[0], first.pauses[0] = "count", 1.0, 1.5 + chance.random()
    first.vanishes[0] = chance.random() < 0.5
    second.starts_at += 0.05
    second.patience[0], second.pauses[0] = 0.5, 3.5


def a_client_joins_at_a_heartbeat(plan: Plan, chance: Random) -> None:
    """Let the reply to its claim come after the fourth heartbeat, and let another client ask soon after that."""
    _begin(plan, clients=3, seconds=(6.0, 8.0), pauses=[9.0] * 3)
    first, second, third = plan.wishes
    first.patience[0] = 0.5
    second.starts_at += 1.4 + 0.05 * chance.random()
    third.starts_at += 2.2
    plan.held["claim", 2] = 0.0, 0.3


def a_request_fails_while_redis_is_away(plan: Plan, chance: Random) -> None:
    """Let its client wait at another replica by then."""
    away = Fault("redis down", 3.5, 17.0 + 3 * chance.random())
    _begin(plan, away, patience=[1.0, None, None], pauses=[0.5, 3.0, 3.0])
    failure = next(each for each in BEHAVIORS if each.name == "503 after the work")
    plan.behaviors[plan.wishes[0].prompt] = [replace(failure, seconds=(4.0, 8.0))]
    plan.fail_closed = True


def a_replica_dies_with_a_reply_that_was_cut(plan: Plan, chance: Random) -> None:
    """Let it die when its client knows that the image could not be downloaded."""
    death = Fault("replica killed", 4.0 + 2 * chance.random(), 30.0, replica=plan.seed % 3)
    _begin(plan, death, pauses=[9.0, 3.0, 3.0])
    cut = next(each for each in BEHAVIORS if each.name == "a link, then cut")
    plan.behaviors[plan.wishes[0].prompt] = [replace(cut, seconds=(0.1, 1.0))]
    plan.failing_downloads[plan.wishes[0].prompt] = ["gone"]
