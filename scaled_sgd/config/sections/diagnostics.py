"""The section ``diagnostics``."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from scaled_sgd.config.sections.marks import Count, Fraction, Natural
from scaled_sgd.config.values import OneOf
from scaled_sgd.diagnostics.registry import QUANTITIES


@dataclass
class DiagnosticsConfig:
    """What is measured along the way, and how often."""

    every: Natural = 0
    """steps between measurements; 0: none"""
    samples: Count | Literal["all"] = 128
    """size of the fixed probe on which curvature and ranks are measured, where the sharpness exceeds that of
    all samples, the more the fewer they are; all: all training samples"""
    taylor: bool = True
    """Taylor coefficients of the step's own minibatch along its update, and the loss they predict"""
    sharpness: bool = True
    """largest eigenvalues of H and of Ξ^{1/2} H Ξ^{1/2} on the probe"""
    ranks: bool = True
    """soft ranks of features and gradients, and kernel drift, on the probe"""
    quantities: list[Annotated[str, OneOf(QUANTITIES)]] = field(default_factory=list)
    """names of further quantities, those of plugins among them"""
    k: Count = 1
    """how many eigenvalues"""
    keep_vectors: bool = False
    """store the k top eigenvectors of H at each measurement, k times the weights' bytes"""
    minibatches: Count = 4
    """with batch_sharpness, gradient_noise, batch_spectrum, noise_stability: how many fresh minibatches they
    average over"""
    tolerance: Fraction = 1e-3
    """relative residual at which an eigenvalue counts as found"""
    chunk: Count = 4096
    """samples at a time; larger minibatches go through in several pieces, with the same result"""

    @property
    def probe_size(self) -> int:
        """``samples`` of a resolved configuration."""
        assert isinstance(self.samples, int)
        return self.samples
