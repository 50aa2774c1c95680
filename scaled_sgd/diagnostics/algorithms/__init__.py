"""Eigenpairs, spectral measures and traces of any symmetric operator, whatever its vectors are made of."""
