"""Memory, traffic and time of a step, predicted from sizes; nothing is allocated and nothing sent."""
