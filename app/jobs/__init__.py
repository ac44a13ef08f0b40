"""The application core: one request for images is one job.

`pipeline.py` is the way of a request from top to bottom; read it first. Nothing here knows HTTP. May import every
package below it, but not `api`, `config`, `server` or `cli`; `pipeline.py` itself imports only `errors`, `protocol`,
`extraction`, `loop_turns`, and from here `pipeline_interface.py` and `concurrent_work.py`.
"""
