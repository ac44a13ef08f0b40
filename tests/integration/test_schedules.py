"""Schedules of three replicas obey the rules, a seed repeats its schedule, and planted bugs are found."""

import gc
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from simulate.__main__ import main
from simulate.clock import ReplicaLoop
from simulate.plan import make_plan
from simulate.schedule import Outcome, play, silence_log
from simulate.upstream import BEHAVIORS
from tests.support.planted_bugs import PLANTED_BUGS, PlantedBug, both

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _silence() -> Iterator[None]:
    restore = silence_log()
    yield
    restore()


def describe(outcome: Outcome) -> str:
    lines = "\n".join(f"{at:9.4f} {text}" for at, text in outcome.events)
    return f"{outcome.violations[0]}: python -m simulate --history --seed {outcome.seed}\n{lines}"


@pytest.mark.parametrize("first", range(0, 200, 50))
def test_schedules_obey_the_rules(first: int) -> None:
    for outcome in map(play, range(first, first + 50)):
        assert not outcome.violations, describe(outcome)


#: Seeds of schedules that have broken a rule, each with what was mended.
MENDED = {
    400_704: "A client left a job of another replica after the first keep-alive, and still counted as its reader.",
    500_026: "A retry ended while the run before it was handed over, and its result was dropped with that run.",
    603_464: "A client left while its replica took a job over, which then had an owner without heartbeats.",
    610_779: "A heartbeat offered an image to the next client before Redis knew that it was delivered.",
    823_976: "A heartbeat that was sent before a client left arrived after the news of that, and counted the client again.",
    833_818: "A retry overtook its first request, whose client had gone without a sign: that is allowed.",
    913_605: "An outcome stayed whose publication was not answered, so others waited for ever for what its owner had delivered.",
    1_014_867: "A client joined and left while an outcome was published, and the next request paid again.",
    1_017_178: "A replica died while it sent an outcome, and was not suspected for a minute.",
    1_121_466: "A state whose publication was given up arrived behind the outcome, and took it away.",
    1_102_720: "A repeat was told that another replica had just taken its job over: that is allowed.",
    1_208_067: "A response with one of two images crossed the leave of its client, who then asked for both: that is allowed.",
    1_218_922: "A job that had failed at no cost was sent again by the replica that took it over: that is allowed.",
    2_007_128: "A replica was paused while it claimed, and its claim came once more when others had delivered the result.",
    4_014_962: "A request took over an asynchronous job that had failed at no cost, and its client did not find it any more.",
    5_017_021: "A run was cancelled before its first step, and published as a success without a result.",
    6_017_738: "A result that a client seemed to read counted as delivered long ago, and its retry paid again.",
    8_037_584: "A reply came while its replica was paused, whose time to stop was over then: that is allowed.",
    2_011_869: "A client that looked for one of two equal asynchronous results was sent to the other: the look at the end was wrong.",
    2_031_302: "A repeat started a job again whose record was just being deleted, beside an equal job of another replica.",
    334: "A repeat joined a job, the reply was lost, and its claim came once more: it was taken for another client.",
    120_322_813: "A retry took what another client had left, while its own first request seemed to wait: that is allowed.",
    120_341_276: "A failure was told late to one of four requests that all might be paid for: the look at the costs was wrong.",
    480: "A failure was dropped while Redis was away, and a client that waited for it was told that its replica had died.",
    3_005_001: "A heartbeat was sent while a client joined, and the next client joined as well and got the same image.",
    4_067_774: "A replica waited for another while Redis stood still, and was forgotten as soon as that went on.",
    6_008_200: "Redis fell back to the moment of its first command, and that was not noticed.",
    6_021_161: "Redis fell back to a failure that had cost nothing, and a repeat joined that beside the run that was paid for.",
    6_037_135: "A client left while its replica took a job over whose reply was lost, so the job had an owner that did not know it.",
    1_000_109_166: "A request joined an outcome whose job was still here, and its lease hid the job from its next repeat.",
    1_000_108_036: "Both receipts of a client were lost, which had joined the job of another client: that is allowed.",
    2_000_060_818: "A question that had failed at no cost was asked once more by a repeat after a failure: that is allowed.",
    2_656_858_097: "A repeat joined a failure that its replica had dropped, and was told that its image was lost.",
    2_656_895_480: "One of two paid replies was cut, and no other replica could deliver the image of the other.",
    2_656_951_280: "A replica stopped with two paid replies, and the others repeated its error.",
    2_500_013_646: "The store was full when the last client of a result left, and its repeat at another replica paid again.",
    3_365_906_614: "A claim was handed on when its client had left, and a request at the same replica joined a record without an owner.",
    3_365_923_094: "A claim was handed on when its client had left, and its key was paid for twice.",
    616_807: "A repeat followed a job again that its owner had forgotten meanwhile, and was told that it was lost.",
}


@pytest.mark.parametrize("seed", MENDED, ids=MENDED.get)
def test_a_schedule_that_has_broken_a_rule_obeys_it_now(seed: int) -> None:
    outcome = play(seed, with_commands=True)
    assert not outcome.violations, describe(outcome)


@pytest.mark.parametrize("bug", PLANTED_BUGS, ids=lambda bug: bug.what)
def test_a_planted_bug_is_found(bug: PlantedBug) -> None:
    assert next(bug.found(), None) is not None


@pytest.mark.parametrize("bug", [bug for bug in PLANTED_BUGS if bug.situation], ids=lambda bug: bug.what)
def test_a_situation_is_no_violation_by_itself(bug: PlantedBug) -> None:
    for outcome in map(bug.play, range(bug.first, bug.first + 20)):
        assert not outcome.violations, describe(outcome)


@pytest.mark.parametrize("bug", [bug for bug in PLANTED_BUGS if bug.hidden_by], ids=lambda bug: bug.what)
def test_a_checker_that_excuses_one_step_more_misses_a_planted_bug(bug: PlantedBug) -> None:
    """Each of these bugs stands beside something that no code can know, and that the checker allows."""
    assert bug.hidden_by is not None
    missed = replace(bug, plant=both(bug.plant, bug.hidden_by))
    assert any(next(replace(missed, first=seed, seeds=1).found(), None) is None for seed in bug.found())


def test_there_are_bugs_enough() -> None:
    assert len({bug.what for bug in PLANTED_BUGS}) >= 20


@pytest.mark.parametrize("seed", [7, 106, 207])
def test_a_seed_repeats_its_schedule_whatever_was_played_before(seed: int) -> None:
    before = play(seed, with_commands=True)
    play(seed + 1)
    assert play(seed, with_commands=True) == before


@pytest.mark.parametrize("seed", [3_002_547, 3_002_739])
def test_nothing_of_a_schedule_lives_on(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A replica that is just being stopped when the schedule ends would leave coroutines behind that nobody awaits."""
    left: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", left.append)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        outcome = play(seed)
        gc.collect()
    assert (outcome.violations, left, [str(each.message) for each in caught]) == ([], [], [])


def test_a_task_that_does_not_end_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ReplicaLoop, "cancel_tasks", lambda _: None)
    assert "a task of replica 0 does not end: <coroutine object JobSharing.heartbeat_loop" in play(1).violations[0]


def test_a_seed_repeats_its_schedule_in_another_process() -> None:
    """With other hashes of texts, and so another order in each set of texts."""
    command = [sys.executable, "-m", "simulate", "--history", "--seed", "3"]
    printed = {
        subprocess.run(
            command, cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(printed) == 1
    assert b"redis: claim" in printed.pop()


def test_every_kind_of_fault_is_planned() -> None:
    plans = [make_plan(seed) for seed in range(3000)]
    assert len({fault.kind for plan in plans for fault in plan.faults}) == 12
    assert {behavior.name for plan in plans for each in plan.behaviors.values() for behavior in each} == {
        behavior.name for behavior in BEHAVIORS
    }
    assert {kind for plan in plans for each in plan.failing_downloads.values() for kind in each} == {
        *("gone", "spool full", "no descriptors"),
    }
    assert {wish.mark for plan in plans for wish in plan.wishes} == {"key", "count", "key and count", "none"}


def test_the_figures_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--schedules", "5", "--seed", "1", "--processes", "1"]) == 0
    output = capsys.readouterr().out
    assert "first seed 1\n5 schedules in " in output
    assert "  client leaves\n" in output
    assert output.endswith("0 schedules with violations\n")


def test_schedules_are_played_in_several_processes() -> None:
    command = [sys.executable, "-m", "simulate", "--schedules", "150", "--seed", "300", "--processes", "2"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "\n150 schedules in " in printed


def test_a_violation_is_printed_with_its_history(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    next(bug for bug in PLANTED_BUGS if "slot" in bug.what).plant(monkeypatch)
    assert main(["--schedules", "2", "--seed", "1", "--processes", "1"]) == 1
    output = capsys.readouterr().out
    assert "its history: python -m simulate --history --seed 1\n" in output
    assert "VIOLATION: replica" in output
