"""`limner serve`: run the server in this process, or supervise several workers."""

import sys
from typing import TYPE_CHECKING

import click

from app.access.keys import InvalidKeyFile, KeyFile
from app.cli.main import INTERRUPTED
from app.cli.settings import load_settings
from app.config.settings import Settings
from app.config.validation import SETTINGS_PAGE
from app.config.variables import unknown_variables
from app.images.signer import InvalidSigner
from app.images.stores import open_store
from app.observability.logging import log, unblock_standard_error
from app.server.descriptors import fill_standard_descriptors
from app.server.draining import DrainingServer
from app.services.images import build_store_config, signing_key

if TYPE_CHECKING:
    from app.server.supervisor import Supervisor


@click.command("serve")
def command() -> int:
    """Run the server. Its settings are LIMNER_ variables, .env and limner.toml."""
    fill_standard_descriptors()
    unblock_standard_error()
    settings = load_settings()
    warn(settings)
    try:
        server = open_supervisor(settings) if settings.workers > 1 else DrainingServer(settings)
    except InvalidKeyFile as error:
        print(f"LIMNER_KEYS_FILE: {error}. See {SETTINGS_PAGE}", file=sys.stderr)
        return 2
    except InvalidSigner as error:
        print(f"{error}. See {SETTINGS_PAGE}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"LIMNER_IMAGE_STORE: cannot be opened: {error}. See {SETTINGS_PAGE}", file=sys.stderr)
        return 2
    try:
        server.run()
    except SystemExit:
        # uvicorn ends the process if it cannot listen, and has logged the reason.
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    # If SIGINT was ignored when the process began, as in a background job, there is no KeyboardInterrupt.
    return INTERRUPTED if server.force_exit else 0


def warn(settings: Settings) -> None:
    """Log what is allowed but probably a mistake."""
    for name in unknown_variables():
        log.warning("unknown_variable", name=name, see=SETTINGS_PAGE)
    if not settings.pass_through and not settings.has_client_keys:
        log.warning(
            "open_access_warning",
            host=settings.host,
            reason="LIMNER_API_KEYS is not set: everyone who can reach this address spends the upstream key",
        )
    if settings.workers * settings.replicas > 1 and settings.shared_state == "memory:":
        log.warning(
            "unshared_workers_warning",
            workers=settings.workers,
            replicas=settings.replicas,
            reason="LIMNER_ALLOW_UNSHARED is set: limits and results are each process's own, and a request that is "
            "repeated at another one is paid for twice",
        )


def open_supervisor(settings: Settings) -> "Supervisor":
    """Return the supervisor, after a try of what would keep every worker from starting, so that it is reported once.

    The module is imported here, because a server in a single process does not need it in memory.

    Raises:
        InvalidKeyFile: The file of keys is wrong.
        InvalidSigner: The certificate or the key for signing cannot be used.
        OSError: The image store cannot be opened.
    """
    from app.server.supervisor import Supervisor  # noqa: PLC0415

    if settings.keys_file is not None:
        KeyFile(settings.keys_file)
    open_store(build_store_config(settings)).close()
    signing_key(settings)
    return Supervisor(settings)
