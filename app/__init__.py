"""Limner: the OpenAI Images API in front, a chat model that generates images behind."""

__version__ = "0.1.0"
