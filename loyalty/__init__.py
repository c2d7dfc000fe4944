"""The loyalty appliance: a points ledger with an HTTP API, its jobs, and the operator's command line."""

__version__ = "0.1.0"
