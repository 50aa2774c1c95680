"""Tables of a study: one row per run, and one row per logged step."""
