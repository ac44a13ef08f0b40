"""The tiers in which sizes are sold, like `2K`: what clients call them, what upstreams do, and how large they are."""

import math
from dataclasses import dataclass

from app.protocol.sizes import MAX_EDGE


@dataclass(frozen=True, slots=True)
class Tier:
    """One tier.

    Attributes:
        name: What upstreams call it.
        resolution: What clients call it.
        edge: The length of an edge of a square in it, in pixels.
        max_pixels: The largest number of pixels in it.
    """

    name: str
    resolution: str
    edge: int
    max_pixels: float


_TIERS = (
    Tier("0.5K", "512", 512, 512 * 1024),
    # 1K, 2K and 4K have about 1, 4 and 16 million pixels; 3840x2160, which is sold as 4K, has 8.
    Tier("1K", "1K", 1024, 2 * 1024**2),
    Tier("2K", "2K", 2048, 6 * 1024**2),
    Tier("4K", "4K", MAX_EDGE, math.inf),
)

#: By what upstreams call them, from small to large.
TIERS = {tier.name: tier for tier in _TIERS}

#: By what clients call them, from small to large.
RESOLUTIONS = {tier.resolution: tier for tier in _TIERS}
