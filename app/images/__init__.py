"""Image bytes: hold them, download them, convert them, store them.

`fetch.py` is the only file that downloads, `bucket.py` the only one that imports obstore; `ssrf.py` is pure. To add
an image store, start in `stores.py`. May import `errors`, `bounded_responses`, `loop_turns`, `observability` and
`protocol`.
"""
