"""Send requests to chat upstreams: choose one, retry or fail over, and map errors.

`transport.py` is the only file that connects to upstreams. Which files are pure says `docs/architecture.md`. May import
`errors`, `observability`, `protocol` and `extraction`.
"""
