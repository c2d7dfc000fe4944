"""Proof that the ledger is what it was: verifications, seals, receipts, and what the monitor found."""
