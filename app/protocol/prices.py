"""The operator's own price list of an upstream: what a reply costs, and what is reserved before asking for it."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from app.protocol.usage import NO_USAGE, Usage

#: Tokens in each direction that are reserved for a reply whose price per token is known, but not its length.
_RESERVED_TOKENS = 10_000

_MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Price:
    """One row of a price list. A condition that is left out holds for every request.

    Attributes:
        models: Names of the upstream's models.
        sizes: Sizes as `1024x1024`.
        qualities: Some of low, medium and high.
        image: For one image.
        tokens_in: For a million tokens of input.
        tokens_out: For a million tokens of output.
        reserve: What is reserved before asking; None takes the price of an image, or that of many tokens.
    """

    models: tuple[str, ...] = ()
    sizes: tuple[str, ...] = ()
    qualities: tuple[str, ...] = ()
    image: Decimal | None = None
    tokens_in: Decimal | None = None
    tokens_out: Decimal | None = None
    reserve: Decimal | None = None

    @property
    def conditions(self) -> int:
        """How many conditions the row has; the row with most of them wins."""
        return sum(map(bool, (self.models, self.sizes, self.qualities)))

    def holds(self, model: str, size: str | None, quality: str | None, *, unknown: bool) -> bool:
        """Return whether the row is for such an image. A condition on an unknown size or quality holds if `unknown`."""
        asked = ((self.models, model), (self.sizes, size), (self.qualities, quality))
        return all(not listed or (unknown if value is None else value in listed) for listed, value in asked)

    @property
    def reserved(self) -> Decimal:
        """What is reserved for one request."""
        tokens = (self.tokens_in or Decimal(0)) + (self.tokens_out or Decimal(0))
        if self.reserve is not None:
            return self.reserve
        return (self.image or Decimal(0)) + tokens * _RESERVED_TOKENS / _MILLION

    def of_tokens(self, usage: Usage) -> Decimal | None:
        """Return the price of the tokens of a reply; None if tokens have a price but were not counted."""
        if self.tokens_in is None and self.tokens_out is None:
            return Decimal(0)
        if usage == NO_USAGE:
            return None
        tokens_in = usage.input_image_tokens + usage.input_text_tokens
        tokens_out = usage.output_image_tokens + usage.output_text_tokens
        return ((self.tokens_in or 0) * tokens_in + (self.tokens_out or 0) * tokens_out) / Decimal(_MILLION)


@dataclass(frozen=True, slots=True)
class PriceList:
    """The prices of one upstream, all in one currency."""

    currency: str = "USD"
    rows: tuple[Price, ...] = ()

    def find(self, model: str, size: str | None, quality: str | None) -> Price | None:
        """Return the row for an image: of those that hold, the one with most conditions, and of these the first."""
        rows = [row for row in self.rows if row.holds(model, size, quality, unknown=False)]
        return max(rows, key=lambda row: row.conditions, default=None)

    def cost(self, model: str, sizes: Sequence[str | None], quality: str | None, usage: Usage) -> Decimal | None:
        """Return what a reply has cost with one image of each of the `sizes`; None where the list cannot tell.

        A reply without an image may be free or not: only a price per token can tell.
        """
        if not self.rows:
            return None
        rows = [self.find(model, size, quality) for size in sizes or (None,)]
        known = [row for row in rows if row is not None]
        if len(known) < len(rows):
            return None
        # The tokens of a reply are counted once, whatever the number of its images.
        of_tokens = max((row.of_tokens(usage) for row in known), key=lambda price: (price is None, price or 0))
        if of_tokens is None or (not sizes and any(row.image is not None for row in known)):
            return None
        return of_tokens + sum((row.image or Decimal(0) for row in known), Decimal(0))

    def reserve(self, model: str, size: str | None, quality: str | None) -> Decimal:
        """Return what is reserved for one image: the highest price that may apply, 0 where there is none."""
        exact = self.find(model, size, quality) if size is not None and quality is not None else None
        rows = (
            [exact]
            if exact is not None
            else [row for row in self.rows if row.holds(model, size, quality, unknown=True)]
        )
        return max((row.reserved for row in rows), default=Decimal(0))


NO_PRICES = PriceList()
