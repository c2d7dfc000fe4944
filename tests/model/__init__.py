"""The engine against a second, naive model of the same semantics, on generated histories and on a real one.

`pytest tests/model` takes about two minutes; `python -m tests.model --examples 20000` is the long run.
"""
