"""What a run measures at diagnostic steps, one class a quantity (:mod:`scaled_sgd.diagnostics.registry`)."""
