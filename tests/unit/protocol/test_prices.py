"""A price list says what a reply costs, and what to reserve before it is asked for."""

from dataclasses import dataclass
from decimal import Decimal

import pytest

from app.protocol.prices import Price, PriceList
from app.protocol.usage import NO_USAGE, Usage

USAGE = Usage(input_image_tokens=100, input_text_tokens=900, output_image_tokens=4000, output_text_tokens=160)


def price(
    image: str | None = None, tokens_in: str | None = None, tokens_out: str | None = None, **conditions: str
) -> Price:
    amounts = {
        "image": image,
        "tokens_in": tokens_in,
        "tokens_out": tokens_out,
        "reserve": conditions.pop("reserve", None),
    }
    listed = {f"{'qualitie' if name == 'quality' else name}s": (value,) for name, value in conditions.items()}
    return Price(**listed, **{name: None if amount is None else Decimal(amount) for name, amount in amounts.items()})  # type: ignore[arg-type]


BY_SIZE = (
    price("0.04"),
    price("0.06", size="1536x1024"),
    price("0.25", size="1536x1024", quality="high"),
    price("0.17", quality="high"),
    price("0.50", model="large"),
)
PER_TOKEN = (price(tokens_in="5.00", tokens_out="40.00"),)
ONLY_QUALITIES = (price("0.01", quality="low"), price("0.17", quality="high"))


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    rows: tuple[Price, ...]
    cost: str | None
    model: str = "m"
    sizes: tuple[str | None, ...] = ("1024x1024",)
    quality: str | None = None
    usage: Usage = NO_USAGE


COSTS = [
    Case("the price of every image", BY_SIZE, "0.04"),
    Case("two images", BY_SIZE, "0.08", sizes=("1024x1024", "1024x1024")),
    Case("images of two sizes", BY_SIZE, "0.10", sizes=("1024x1024", "1536x1024")),
    Case("the price of a size", BY_SIZE, "0.06", sizes=("1536x1024",), quality="low"),
    Case("the row with most conditions", BY_SIZE, "0.25", sizes=("1536x1024",), quality="high"),
    Case("the first of two rows with as many conditions", BY_SIZE, "0.17", model="large", quality="high"),
    Case("the price of a model", BY_SIZE, "0.50", model="large"),
    Case("a size that was not measured", BY_SIZE, "0.04", sizes=(None,)),
    Case("tokens", PER_TOKEN, "0.1714", usage=USAGE),
    Case("tokens are counted once for two images", PER_TOKEN, "0.1714", sizes=(None, None), usage=USAGE),
    Case("tokens of a reply without an image", PER_TOKEN, "0.1714", sizes=(), usage=USAGE),
    Case("tokens that nobody has counted", PER_TOKEN, None),
    Case("tokens of one direction", (price(tokens_out="10"),), "0.0416", usage=USAGE),
    Case("an image and its tokens", (price("0.03", tokens_in="1"),), "0.031", usage=USAGE),
    Case("a reply without an image may be free or not", BY_SIZE, None, sizes=()),
    Case("a quality that the model chose", ONLY_QUALITIES, None),
    Case("no price list", (), None),
]  # fmt: skip


@pytest.mark.parametrize("case", COSTS, ids=lambda case: case.name)
def test_a_reply_costs_what_the_list_says(case: Case) -> None:
    found = PriceList("USD", case.rows).cost(case.model, case.sizes, case.quality, case.usage)
    assert found == (None if case.cost is None else Decimal(case.cost))


RESERVES = [
    Case("the price of this very image", BY_SIZE, "0.25", sizes=("1536x1024",), quality="high"),
    Case("the highest price of a size, since the quality is open", BY_SIZE, "0.25", sizes=("1536x1024",)),
    Case("the highest price of all", BY_SIZE, "0.25", sizes=(None,)),
    Case("many tokens", PER_TOKEN, "0.45"),
    Case("what the operator says", (price(tokens_out="40", reserve="0.20"),), "0.20"),
    Case("a size and a quality without a price", ONLY_QUALITIES, "0", quality="medium"),
    Case("no price list", (), "0"),
]  # fmt: skip


@pytest.mark.parametrize("case", RESERVES, ids=lambda case: case.name)
def test_the_highest_price_that_may_apply_is_reserved(case: Case) -> None:
    assert PriceList("USD", case.rows).reserve(case.model, case.sizes[0], case.quality) == Decimal(case.cost or 0)
