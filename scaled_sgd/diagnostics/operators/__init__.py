"""Minibatch Hessians as operators on flat vectors: over weights, in sample space, through autograd."""
