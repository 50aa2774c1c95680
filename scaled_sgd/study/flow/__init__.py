"""``scaled-sgd flow``: gradient descent beside its gradient flow and its central flow, from a run's weights."""
