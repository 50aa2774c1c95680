"""Gradient descent beside its gradient flow and its central flow, for small networks (theory §10)."""
