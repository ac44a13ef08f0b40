"""Model names select behaviors: alone, with a number, and joined."""

from dataclasses import replace

import pytest

from app.demo import reply_forms
from app.demo.behaviors import BEHAVIORS, MODEL, Behavior, ImageSpec, ReplyPlan, parse_model


def plan_of(model: str) -> ReplyPlan:
    plan = parse_model(model)
    assert plan is not None
    return plan


def test_the_documented_model_changes_nothing() -> None:
    assert plan_of(MODEL) == ReplyPlan()


@pytest.mark.parametrize("row", [row for row in BEHAVIORS if row.name != MODEL], ids=lambda row: row.title)
def test_every_row_changes_the_plan(row: Behavior) -> None:
    model = row.name if row.default is None else f"{row.name}-{row.default:g}"
    assert plan_of(model) != ReplyPlan()


def test_titles_are_unique_and_every_row_has_a_description() -> None:
    assert len({row.title for row in BEHAVIORS}) == len(BEHAVIORS)
    assert all(row.description for row in BEHAVIORS)


def test_names_with_a_number_have_a_default() -> None:
    assert plan_of("missing-image").images == plan_of("missing-image-2").images == (ImageSpec(not_found_count=2),)
    assert plan_of("pace").transport == plan_of("pace-0.05").transport
    assert plan_of("redirects-3").images == (ImageSpec(redirect_count=3),)


def test_names_are_joined() -> None:
    plan = plan_of("previews+markdown+jpeg+pace-0.5+never-done")
    assert plan.build_reply is reply_forms.markdown
    assert plan.images == (
        ImageSpec(is_draft=True, scale=0.25, encoding="JPEG"),
        ImageSpec(is_draft=True, scale=0.5, encoding="JPEG"),
        ImageSpec(encoding="JPEG"),
    )
    assert plan.transport == replace(ReplyPlan().transport, chunk_pause=0.5, with_done=False)
    assert len(plan_of("slow-2+flaky-1").interruptions) == 2


@pytest.mark.parametrize("name", ["html", "refuses"])
def test_the_same_name_with_a_number_is_another_row(name: str) -> None:
    assert plan_of(name).interruptions == ()
    assert len(plan_of({"html": "html-502", "refuses": "refuses-400"}[name]).interruptions) == 1


@pytest.mark.parametrize(
    "model",
    [
        *(
            "gpt-image-2",
            "",
            "+",
            "markdown+",
            "markdown-2",
            "slow-",
            "slow-x",
            "slow--1",
            "slow-１",
            "slow-1e3",
            "slow-.5",
        ),
        *("slow-3601", "error-200", "error-600", "html-99", "flaky-1234567"),
    ],
)
def test_an_unknown_name_is_no_behavior(model: str) -> None:
    assert parse_model(model) is None
