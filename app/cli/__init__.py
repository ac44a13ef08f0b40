"""The commands: one module each, and `main.py` which lists them.

May import everything.
"""
