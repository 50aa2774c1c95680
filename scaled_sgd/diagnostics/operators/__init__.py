"""Curvature matrices of minibatches, and storages of the vectors that they multiply."""
