"""Width-scaling studies."""
