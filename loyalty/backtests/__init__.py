"""Back-tests: what other rules, or other tiers, would have given for what really happened. They change nothing."""
