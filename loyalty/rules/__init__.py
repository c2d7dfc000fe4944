"""Rules: what earns points. Published as immutable, numbered versions; awards are pure functions of them."""
