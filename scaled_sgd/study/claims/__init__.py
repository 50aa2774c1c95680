"""What a paper says, as a number over the runs of a study, and whether it came out."""
