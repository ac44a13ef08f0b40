"""Load the settings for a command, or end the command with a line for each wrong one."""

import sys
from pathlib import Path
from typing import Any

import click
from pydantic import ValidationError

from app.cli.main import ENV_LINES
from app.config.settings import Settings
from app.config.validation import describe_errors
from app.observability.logging import configure_logging

#: Printed if no upstream is set, and nothing else is wrong: probably there are no settings yet.
_FIRST_SETTINGS = f"""
Limner needs an upstream: a server with /chat/completions and a model that generates images. Write three lines with your
values into a file named .env in this folder, {{folder}}:

{ENV_LINES}
Then try them with limner check, and start the server with limner serve.
Without an upstream, limner demo shows Limner at work: no key, no network."""


class InvalidSettings(click.ClickException):
    """End the command with exit code 2. The message is printed as it is, a line for each wrong setting."""

    exit_code = 2

    def show(self, file: Any = None) -> None:
        print(self.message, file=file or sys.stderr)


def load_settings(**overrides: Any) -> Settings:
    """Return the settings with these values instead of the operator's, and configure the log by them.

    Raises:
        InvalidSettings: At least one setting is wrong or missing.
    """
    try:
        settings = Settings(**overrides)
    except ValidationError as error:
        explanation = _FIRST_SETTINGS.format(folder=Path.cwd()) if _lacks_only_upstream(error) else ""
        raise InvalidSettings("\n".join(describe_errors(error)) + explanation) from None
    configure_logging(settings.log_format, settings.log_level)
    return settings


def _lacks_only_upstream(error: ValidationError) -> bool:
    problems = error.errors(include_url=False, include_context=False)
    return [(problem["type"], problem["loc"][-1:]) for problem in problems] == [("missing", ("upstream_base_url",))]
