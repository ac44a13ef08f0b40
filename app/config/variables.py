"""The names of all variables that are settings, and variables that look like one and are none."""

import os

from app.config.field_types import PREFIX, variable
from app.config.settings import SECRETS, Settings
from app.config.sources import dot_env_source


def known_variables() -> list[str]:
    """Return the names of all variables that are settings, in the order of the documentation."""
    names = []
    for field in Settings.model_fields:
        names += [variable(field), variable(f"{field}_file")] if field in SECRETS else [variable(field)]
    return names


def unknown_variables() -> list[str]:
    """Return the LIMNER_ variables of the environment or `.env` that are not settings; most are misspelled."""
    given = os.environ.keys() | {name.upper() for name in dot_env_source(Settings).env_vars}
    return sorted(name for name in given - {*known_variables()} if name.startswith(PREFIX))
