"""Segments: who is in those that the rules ask for."""
