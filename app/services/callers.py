"""Build what knows callers: their keys, what is recorded of their requests, and their webhooks."""

from functools import partial
from pathlib import Path

from app import __version__
from app.access.auth import Authenticator
from app.access.keys import KeyFile
from app.access.webhook_secrets import WebhookSecrets
from app.config.field_types import STANDARD_OUTPUT
from app.config.settings import Settings
from app.images.blob import Spool
from app.images.guarded_http import GuardedHttp
from app.jobs.service import ImageService
from app.jobs.tasks import ImageTasks
from app.jobs.usage_record import UsageRecorder
from app.jobs.webhook_sender import HEADERS, WebhookSender
from app.jobs.webhooks import Webhooks
from app.observability.hourly import HourlySummary
from app.observability.ledger import Ledger
from app.observability.tracing import OtlpTracing
from app.services.images import download_proxy, own_host
from app.state.shared_state import SharedState
from app.state.webhook_queue import WebhookQueue


def open_key_file(settings: Settings) -> KeyFile | None:
    """Return the file of client keys, if there is one. Raises `InvalidKeyFile`."""
    names = [entry.name for entry in settings.effective_upstreams]
    return None if settings.keys_file is None else KeyFile(settings.keys_file, names)


def build_authenticator(settings: Settings, key_file: KeyFile | None) -> Authenticator:
    """Return what checks client keys."""
    keys = (key.get_secret_value() for key in settings.api_keys)
    return Authenticator(keys, pass_through=settings.pass_through, key_file=key_file)


def build_webhook_secrets(settings: Settings, authenticator: Authenticator) -> WebhookSecrets:
    """Return what finds the secrets that sign webhooks."""
    root = settings.webhook_secret
    return WebhookSecrets(authenticator, None if root is None else root.get_secret_value().encode())


def build_webhooks(
    settings: Settings, state: SharedState, authenticator: Authenticator, service: ImageService
) -> Webhooks:
    """Return what tells clients that their asynchronous requests have ended."""
    http = GuardedHttp(
        headers=HEADERS, allow=settings.fetch_allow, proxy=download_proxy(settings), own_host=own_host(settings)
    )
    return Webhooks(
        queue=WebhookQueue(state),
        tasks=ImageTasks(
            service, service.backends.store, partial(Spool, settings.spool_dir, service.backends.spool_memory)
        ),
        sender=WebhookSender(http),
        secrets=build_webhook_secrets(settings, authenticator),
        # The file may allow them to a key at any time.
        is_used=settings.webhooks or settings.keys_file is not None,
    )


def build_usage_recorder(settings: Settings) -> UsageRecorder:
    """Return where usage records are written."""
    path = None if settings.ledger == STANDARD_OUTPUT else settings.ledger
    ledger = None if settings.ledger is None else Ledger(path)
    tracing = None if settings.traces is None else OtlpTracing(settings.traces, __version__)
    # With a ledger file its lines are summed up, which are those of all workers.
    hourly = HourlySummary() if ledger_file(settings) is None else None
    return UsageRecorder(ledger, tracing, settings.log_prompts, hourly, settings.currency)


def ledger_file(settings: Settings) -> Path | None:
    """Return the file of the ledger, which can be read again; None if there is none.

    The standard output cannot be read, and neither can a pipe: its lines belong to its reader.
    """
    path = settings.ledger
    return None if path is None or path == STANDARD_OUTPUT or (path.exists() and not path.is_file()) else path
