"""A plain simulated fleet: nodes, their link tables on both sides, a router, supply and load."""
