"""The commands: one module for each, which `main.py` imports when the command is used.

`settings.py` loads the settings for those commands that need them. May import everything.
"""
