"""Wire formats, both ways: the Images API on one side, chat completions on the other.

Pure: nothing here sees the network, the disk, a clock, randomness, settings or a log, so every function can be tested
with values alone. May import `errors` only. To add a request parameter, start in `image_request.py`; to add a family of
upstreams, in `dialects.py`.
"""
