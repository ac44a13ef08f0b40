"""Create inputs that are nearly valid: seeds with bytes flipped, cut, repeated, joined, and tokens of the format."""

from collections.abc import Callable, Sequence
from random import Random

#: Bytes of the largest input. Quadratic work shows with much smaller ones.
MAX_SIZE = 256 * 1024

Change = Callable[[Random, bytes, "Stock"], bytes]


class Stock:
    """Source of inputs: valid `seeds`, and `tokens` of the format to insert into them."""

    def __init__(self, seeds: Sequence[bytes], tokens: Sequence[bytes]) -> None:
        self.seeds = seeds
        self.tokens = tokens

    def input(self, random: Random) -> bytes:
        data = random.choice(self.seeds)
        for _ in range(random.choice((0, 1, 1, 2, 3, 8))):
            data = random.choice(CHANGES)(random, data, self)[:MAX_SIZE]
        return data


def _span(random: Random, data: bytes) -> tuple[int, int]:
    """Return the start and end of a random span, usually a short one."""
    start = random.randrange(len(data) + 1)
    return start, min(len(data), start + int(random.expovariate(1 / 8)) + 1)


def _flip(random: Random, data: bytes, _: Stock) -> bytes:
    start, end = _span(random, data)
    return data[:start] + random.randbytes(end - start) + data[end:]


def _drop(random: Random, data: bytes, _: Stock) -> bytes:
    start, end = _span(random, data)
    return data[:start] + data[end:]


def _cut(random: Random, data: bytes, _: Stock) -> bytes:
    return data[: random.randrange(len(data) + 1)]


def _repeat(random: Random, data: bytes, _: Stock) -> bytes:
    start, end = _span(random, data)
    return data[:start] + data[start:end] * random.choice((2, 10, 10_000)) + data[end:]


def _insert(random: Random, data: bytes, stock: Stock) -> bytes:
    start, _ = _span(random, data)
    return data[:start] + random.choice(stock.tokens) * random.choice((1, 1, 1, 2, 5_000)) + data[start:]


def _splice(random: Random, data: bytes, stock: Stock) -> bytes:
    other = random.choice(stock.seeds)
    return data[: random.randrange(len(data) + 1)] + other[random.randrange(len(other) + 1) :]


CHANGES: tuple[Change, ...] = (_flip, _drop, _cut, _repeat, _insert, _splice)
