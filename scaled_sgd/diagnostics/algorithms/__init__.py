"""Eigenpairs, spectral measures and traces of any symmetric operator, however its vectors are stored."""
