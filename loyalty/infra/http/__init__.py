"""HTTP conventions: one decorator per endpoint, problem details, pages, entity tags, idempotency, the API document.

Nothing is re-exported here on purpose: the command line and the jobs use models and problems without loading Flask.
"""
