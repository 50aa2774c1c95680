"""What a run leaves on the disk: its directory, records, locks and checkpoints."""
