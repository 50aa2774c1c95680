"""``scaled-sgd line``: the loss of a stored network along a line through its weights."""
