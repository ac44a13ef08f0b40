"""Load the settings for a command, or end the command with a line for each wrong one."""

import sys
from typing import Any

import click
from pydantic import ValidationError

from app.config.settings import Settings
from app.config.validation import describe_errors
from app.observability.logging import configure_logging


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
        raise InvalidSettings("\n".join(describe_errors(error))) from None
    configure_logging(settings.log_format, settings.log_level)
    return settings
