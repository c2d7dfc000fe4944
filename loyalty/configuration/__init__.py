"""Configuration as code: a program's settings, rules, tiers and rewards as one document to keep, compare and apply."""
