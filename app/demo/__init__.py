"""The demo upstream: a small, faithful `/chat/completions` server that really paints.

It shares no code with the gateway in front of it: a mistake in one would otherwise be hidden by the other.
"""
