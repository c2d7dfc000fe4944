"""Many processes over a few hot members of a real database, and the proof that it looks as if they had taken turns.

`pytest tests/concurrency` takes some seconds; `python -m tests.concurrency --seconds 60` is the long run.
"""
