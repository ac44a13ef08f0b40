"""The demo upstream: a small, faithful `/chat/completions` server that really draws images.

It shares no code with the gateway in front of it: with shared code, a mistake in one would be hidden by the other.
"""
