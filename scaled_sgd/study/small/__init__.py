"""Small runs: networks trained in this process, one by one or stacked, with light records."""
