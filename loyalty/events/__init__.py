"""Events: facts that tills and shops report, and the points that they earn."""
