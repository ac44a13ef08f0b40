"""The price list of an upstream as an operator writes it: `[[upstreams.prices]]` tables."""

from decimal import Decimal
from typing import Annotated, Literal, Self

import orjson
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import NoDecode

from app.config.field_types import written_as
from app.protocol.money import parse_amount
from app.protocol.prices import Price

_QUALITIES = Literal["low", "medium", "high"]


def _parse_amount(value: object) -> object:
    """Return the exact amount. A TOML number with a fraction is not exact, so it must be a text."""
    amount = value if isinstance(value, Decimal) else parse_amount(value)
    if amount is None:
        raise PydanticCustomError("amount", 'expected an amount of money in quotes, like "0.04"')
    return amount


def _to_list(value: object) -> object:
    return (value,) if isinstance(value, str) else value


Amount = Annotated[Decimal, BeforeValidator(_parse_amount)]
_Names = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_to_list)]
_Sizes = Annotated[
    tuple[Annotated[str, written_as("[1-9][0-9]{1,4}x[1-9][0-9]{1,4}", "a size like 1536x1024")], ...],
    BeforeValidator(_to_list),
]


class PriceTable(BaseModel):
    """One `[[upstreams.prices]]` table. `model`, `size`, `quality`: a text or a list; left out, they hold for all.

    Attributes:
        image: For one image.
        tokens_in: For a million tokens of input.
        tokens_out: For a million tokens of output.
        reserve: What counts in a monthly budget while a request is in flight.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: _Names = ()
    size: _Sizes = ()
    quality: Annotated[tuple[_QUALITIES, ...], BeforeValidator(_to_list)] = ()
    image: Amount | None = None
    tokens_in: Amount | None = None
    tokens_out: Amount | None = None
    reserve: Amount | None = None

    @model_validator(mode="after")
    def _check_price(self) -> Self:
        if self.image is None and self.tokens_in is None and self.tokens_out is None:
            raise PydanticCustomError("price", "expected one of `image`, `tokens_in` and `tokens_out`")
        return self

    def build(self) -> Price:
        """Return the row as the price list has it."""
        prices = self.image, self.tokens_in, self.tokens_out, self.reserve
        return Price(self.model, self.size, self.quality, *prices)


def _check_rows(rows: tuple[PriceTable, ...]) -> tuple[PriceTable, ...]:
    conditions = [(row.model, row.size, row.quality) for row in rows]
    if len(set(conditions)) < len(conditions):
        raise PydanticCustomError("prices", "two rows for the same model, size and quality")
    return rows


def _parse_rows(value: object) -> object:
    """Parse JSON, or the price of every image. A list, as TOML has it, stays as it is."""
    if not isinstance(value, str):
        return value
    if parse_amount(value.strip()) is not None:
        return [{"image": value.strip()}]
    try:
        rows = orjson.loads(value)
    except orjson.JSONDecodeError:
        rows = None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise PydanticCustomError("prices", 'the price of an image like 0.04, or a JSON list like [{"image": "0.04"}]')
    return rows


PriceRows = Annotated[tuple[PriceTable, ...], AfterValidator(_check_rows)]
PriceSetting = Annotated[PriceRows, NoDecode, BeforeValidator(_parse_rows)]
