"""API keys: opaque, scoped, expiring; only their hash is stored."""
