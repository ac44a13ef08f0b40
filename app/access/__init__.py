"""Who may call, and how much: client keys, rate limits, budgets, concurrency.

May import `errors`, `observability`, `protocol` and `state`.
"""
