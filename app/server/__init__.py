"""Run the application: the HTTP protocol's limits, draining, worker processes.

May import `errors`, `observability`, `config` and `main`.
"""
