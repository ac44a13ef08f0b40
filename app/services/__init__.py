"""Every long-lived object of one server: built from the settings, opened and closed in order.

`lifecycle.py` holds them all; the other files build the parts, by subject. May import everything but `api`, `main`,
`server`, `cli` and `demo`.
"""
