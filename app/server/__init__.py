"""Run the application: the HTTP protocol's limits, draining, worker processes.

May import `errors`, `connection_ends`, `observability`, `config` and `main`.
"""
