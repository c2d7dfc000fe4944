"""Holds: points set aside for a purchase that is not complete."""
