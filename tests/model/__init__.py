"""The engine against a second, naive model of the same semantics, on generated programs and histories.

`pytest tests/model` takes about a minute; `python -m tests.model --examples 20000` is the long run.
"""
