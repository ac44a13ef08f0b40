"""Every place to mend that is named exists."""

import re
from pathlib import Path

import pytest

from app.config.settings import Settings
from app.extraction import places
from app.extraction.forms import FORMS
from app.extraction.places import OF_A_GUESS, OF_NOTHING, place_of_form, place_of_reason

ROOT = Path(__file__).resolve().parents[3]
REASONS = list(places._OF_REASONS)
PLACES = [*map(place_of_reason, REASONS), *(place_of_form(form.name) for form in FORMS), OF_A_GUESS, OF_NOTHING]


@pytest.mark.parametrize("place", PLACES)
def test_the_names_of_a_place_are_defined_in_its_file(place: str) -> None:
    for names, file in re.findall(r"([\w, -]+?(?: and \w+)?(?: of FORMS)?) in (app/[\w/]+\.py)", place):
        source = (ROOT / file).read_text()
        name = re.findall(r"\b_?[A-Za-z][A-Za-z_0-9]+\b", names)[-1]
        assert re.search(rf"^(?:def |class )?{name}\b", source, re.MULTILINE), (name, file)
    for setting in re.findall(r"LIMNER_([A-Z_]+)", place):
        assert setting.lower() in Settings.model_fields


def test_every_reason_has_a_place() -> None:
    sources = [(ROOT / "app" / "extraction" / name).read_text() for name in ("forms.py", "filters.py")]
    written = {match for source in sources for match in re.findall(r'"((?:it|its|the) [a-z][^"{}]+)"', source)}
    reasons = {text for text in written if re.match(r"(?:it |its |the words |the reply |the client )", text)}
    assert reasons <= set(REASONS)
