"""gunpowder nodes, one a file; they work in any gunpowder pipeline."""
