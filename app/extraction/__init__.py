"""Find the images in a chat reply, whatever form they have.

Pure, like `protocol`: nothing here sees the network, the disk, a clock, randomness, settings or a log. May import
`errors` and `protocol`. To add a reply form, start in `forms.py`: one function, one row of `FORMS`, and a sample reply
in `tests/data/more_replies.jsonl`.
"""
