"""Variables of the environment that are not settings of Limner: of the terminal, of the OpenAI SDKs, of libraries."""

import os
from pathlib import Path


def default_store() -> str:
    """Return a folder below the user's state folder, by the XDG rules: the only foreign variable that is a setting."""
    home = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return f"disk://{Path(home).expanduser().absolute()}/limner/images"


def terminal_names() -> tuple[str, ...]:
    """Return what the terminal calls itself. It only decides whether `limner paint` can show the image."""
    return tuple(filter(None, map(os.environ.get, ("TERM", "TERM_PROGRAM"))))


def openai_variables() -> dict[str, str]:
    """Return the variables of the OpenAI SDKs that are set and not empty, for the client `limner paint`."""
    names = {"base_url": "OPENAI_BASE_URL", "api_key": "OPENAI_API_KEY"}
    return {field: value for field, name in names.items() if (value := os.environ.get(name))}


def set_variable(name: str, value: str) -> None:
    """Set a variable for a library that reads it in the processes that this one starts."""
    os.environ[name] = value
