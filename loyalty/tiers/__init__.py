"""Tiers: levels that members reach and keep. Published as immutable, numbered schemes; standings are pure functions."""
