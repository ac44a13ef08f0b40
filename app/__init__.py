"""Limner: the OpenAI Images API in front, a chat model that paints behind."""

__version__ = "0.1.0"
