"""Programs: whose points they are, in which currency and time zone they think."""
