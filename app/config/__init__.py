"""Settings: read from the environment, `.env`, `limner.toml` and secret files, and checked.

Nothing else reads the environment. May import `protocol`, `images` and the `spec` of `upstream`.
"""
