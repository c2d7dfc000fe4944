"""Nothing is lost and nothing is doubled, whatever is killed.

`pytest tests/faults` kills local servers for about a minute; `python -m tests.faults --site lab --minutes 30` does it
to a lab server, power cuts included.
"""
