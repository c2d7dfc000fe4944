"""Adjustments: points changed by hand, with a reason."""
