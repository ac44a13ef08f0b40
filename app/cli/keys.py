"""`limner keys`: show what client keys have used, and make new ones for the file that `LIMNER_KEYS_FILE` names."""

import asyncio
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NamedTuple

import click
import orjson

from app.access.keys import ClientKey, InvalidKeyFile, generate_key, parse_keys
from app.access.limits import KeyLimits
from app.cli.ledger import align_columns
from app.cli.messages import print_error
from app.cli.settings import load_settings
from app.config.field_types import STANDARD_OUTPUT
from app.config.settings import Settings
from app.protocol.money import write_amount
from app.protocol.webhook_signature import write_secret
from app.services.callers import build_authenticator, build_webhook_secrets, open_key_file
from app.state.shared_state import SharedState


class MonthlyUse(NamedTuple):
    """What a key has used this month."""

    images: int
    cost: Decimal


@click.group("keys", invoke_without_command=True)
@click.pass_context
def command(context: click.Context) -> int:
    """Show what client keys have used, and make new ones.

    Without a command: what each key of LIMNER_KEYS_FILE has used this month.
    """
    return 0 if context.invoked_subcommand is not None else show_use(load_settings())


def show_use(settings: Settings) -> int:
    """Print a line for each key and return the exit code."""
    if settings.keys_file is None:
        print_error("keys", "LIMNER_KEYS_FILE is not set")
        return 2
    try:
        keys = parse_keys(settings.keys_file.read_text("utf-8-sig"))
        uses = read_uses(settings, keys)
    except InvalidKeyFile as error:
        print_error("keys", f"{settings.keys_file}: {error}")
        return 2
    except OSError as error:
        print_error("keys", str(error))
        return 1
    print("\n".join(align_columns(use_table(keys, uses, settings.currency))))
    return 0


def read_uses(settings: Settings, keys: Sequence[ClientKey]) -> dict[str, MonthlyUse] | None:
    """Return what each key has used: from the shared state, or else from the ledger; None where neither is set.

    Raises:
        OSError: Redis or the ledger cannot be read.
    """
    if settings.shared_state != "memory:":
        return asyncio.run(_read_shared(settings, keys))
    if settings.ledger is None or settings.ledger == STANDARD_OUTPUT:
        return None
    with settings.ledger.open("rb") as lines:
        return sum_ledger(lines, f"{datetime.now(UTC):%Y-%m}", settings.currency)


async def _read_shared(settings: Settings, keys: Sequence[ClientKey]) -> dict[str, MonthlyUse]:
    state = SharedState(settings.shared_state, fail_closed=True)
    limits = KeyLimits(state, 0, currency=settings.currency)
    try:
        await state.ping()
        return {key.name: MonthlyUse(await limits.used_images(key), await limits.budgets.used(key)) for key in keys}
    finally:
        await state.close()


def sum_ledger(lines: Iterable[bytes], month: str, currency: str) -> dict[str, MonthlyUse]:
    """Sum up the images and costs of a month like `2026-11`, by key."""
    images, costs = Counter[str](), dict[str, Decimal]()
    for entry in _entries_of(lines, month):
        name = str(entry.get("key"))
        images[name] += entry.get("images", 0)
        if entry.get("cost") is not None and entry.get("currency") == currency:
            costs[name] = costs.get(name, Decimal(0)) + Decimal(entry["cost"])
    return {name: MonthlyUse(images[name], costs.get(name, Decimal(0))) for name in images}


def _entries_of(lines: Iterable[bytes], month: str) -> Iterator[dict[str, Any]]:
    for line in lines:
        try:
            entry = orjson.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and str(entry.get("at")).startswith(month):
            yield entry


def use_table(
    keys: Sequence[ClientKey], uses: dict[str, MonthlyUse] | None, currency: str
) -> Iterator[tuple[str, ...]]:
    """Yield the rows of the table. Without `uses` nothing is known: a dash."""
    yield ("key", "images", "of", f"cost {currency}", "of")
    for key in keys:
        use = None if uses is None else uses.get(key.name, MonthlyUse(0, Decimal(0)))
        images, cost = ("-", "-") if use is None else (str(use.images), write_amount(use.cost))
        limits = key.monthly_images, None if key.monthly_cost is None else write_amount(key.monthly_cost)
        yield (key.name, images, str(limits[0] or "-"), cost, limits[1] or "-")


@command.command("webhook-secrets", short_help="Show the secrets that sign webhooks.")
@click.argument("name", required=False)
def webhook_secrets(name: str | None) -> int:
    """Show the secrets that sign webhooks: of the client key NAME, or of all.

    A key of LIMNER_API_KEYS has the name under which the ledger knows it.
    """
    settings = load_settings()
    try:
        found = dict(list_webhook_secrets(settings))
    except InvalidKeyFile as error:
        print_error("keys", f"{settings.keys_file}: {error}")
        return 2
    if not found:
        print_error("keys", "there are no client keys: set LIMNER_API_KEYS or LIMNER_KEYS_FILE")
        return 2
    if name is not None and name not in found:
        print_error("keys", f"NAME: there is no key {name}")
        return 2
    print("\n".join(align_columns([(key, found[key]) for key in found if name in {None, key}])))
    return 0


def list_webhook_secrets(settings: Settings) -> Iterator[tuple[str, str]]:
    """Yield the name of each client key and the secret of its webhooks.

    Raises:
        InvalidKeyFile: The file of keys cannot be used.
    """
    authenticator = build_authenticator(settings, open_key_file(settings))
    secrets = build_webhook_secrets(settings, authenticator)
    for known in authenticator.known_keys():
        name = known.caller if known.key is None else known.key.name
        yield name, write_secret(secrets.secret_of(known))


@command.command("new")
@click.argument("name")
def new(name: str) -> int:
    """Make a key for the client NAME. It is shown only once; its table is for the file of LIMNER_KEYS_FILE."""
    try:
        key, table = generate_key(name)
    except InvalidKeyFile as error:
        print_error("keys", f"NAME: {error}")
        return 2
    # The table alone goes to the standard output, so that it can be appended to the file.
    print(f"The key of {name}, shown only here: {key}", file=sys.stderr)
    print(table)
    return 0
