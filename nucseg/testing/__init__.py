"""Contract checks for parts that a lab adds: one call checks a whole head or node."""
