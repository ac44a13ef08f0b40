"""Inbound HTTP: routes, request bodies, responses, middleware.

May import everything but `services`, `main`, `server`, `cli` and `demo`.
"""
