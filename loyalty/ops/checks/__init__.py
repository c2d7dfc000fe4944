"""The one catalogue of checks: what must be so of a site, each with its remedy.

`status`, `doctor`, `verify`, the end of an installation and the tests judge a site by it. What is judged is what was
*seen*: one JSON document that the role `verify` collects (see `seen.py`). Every check is a pure function over it, so
each can be shown to fail without a server. Nothing here needs more than the standard library: Ansible imports it too.
"""
