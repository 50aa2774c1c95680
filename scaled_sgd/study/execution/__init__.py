"""Runs what is pending of a study: workers for small runs, launches for large ones, jobs for shares."""
