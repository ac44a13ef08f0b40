"""Compare a refusal of a parameter with what a test expects."""

from app.errors import InvalidRequest


def assert_invalid(error: InvalidRequest, message: str, param: str, code: str) -> None:
    """Compare all that a client sees of an invalid request. A message that ends in `…` is only the beginning."""
    begins = message.removesuffix("…")
    assert error.message.startswith(begins) if begins != message else error.message == message
    assert (error.type, error.param, error.code) == ("invalid_request_error", param, code)
