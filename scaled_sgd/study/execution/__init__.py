"""Executes the pending runs of a study: small runs in workers, large runs by launches, shares as jobs."""
