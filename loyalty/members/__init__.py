"""Members: who collects points, and by which handles they are recognised."""
