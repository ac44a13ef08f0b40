"""Send requests to chat upstreams: choose one, retry or fail over, and map errors.

`transport.py` is the only file that connects to upstreams. `docs/architecture.md` says which files are pure. May import
`errors`, `bounded_responses`, `connection_ends`, `loop_turns`, `observability`, `protocol` and `extraction`.
"""
