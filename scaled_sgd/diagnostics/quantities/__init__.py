"""Quantities measured at diagnostic steps, one class each (see :mod:`scaled_sgd.diagnostics.registry`)."""
