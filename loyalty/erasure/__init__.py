"""Erasure: a person is forgotten, the chain of the points stays."""
