"""Nothing is lost, doubled or contradicted, whatever is killed, frozen, cut off or filled up.

`pytest tests/faults` attacks local servers; `python -m tests.faults --site lab --minutes 30` attacks a lab site.
`docs/faults.md` says how, what is proved, and what was found.
"""
