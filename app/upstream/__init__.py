"""Ask chat upstreams: which one, in what order, and what their errors mean.

`client.py` is the only file that opens a connection to an upstream. Pure are `selection`, `circuit_breaker`, `retry`,
`error_mapping` and `decoding`. May import `errors`, `observability`, `protocol` and `extraction`.
"""
