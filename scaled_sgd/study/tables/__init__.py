"""Tables of a study: one row a run, and one row a logged step."""
