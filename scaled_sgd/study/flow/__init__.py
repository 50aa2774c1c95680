"""``scaled-sgd flow``: gradient descent beside its gradient and central flow, from a run's weights."""
