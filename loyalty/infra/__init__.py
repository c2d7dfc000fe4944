"""Infrastructure that knows nothing of loyalty: databases, time, identifiers, HTTP conventions, logs, metrics."""
