"""Files on the storage path: content-addressed, durable before they are acknowledged, served by signed links."""
