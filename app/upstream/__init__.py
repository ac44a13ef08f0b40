"""Send requests to chat upstreams: choose one, retry or fail over, and map errors.

`client.py` is the only file that opens connections to upstreams. All but it, `pool` and `spec` are pure. May import
`errors`, `observability`, `protocol` and `extraction`.
"""
