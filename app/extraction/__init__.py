"""Find the images in a chat reply, whatever form they come in.

Pure, like `protocol`: values in, values out. May import `errors` and `protocol`. To add a reply form,
start in `forms.py`.
"""
