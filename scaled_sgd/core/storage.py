"""How networks are written and read: core has no files, so the package's entry names who does it."""

STORAGE: dict[str, str] = {}
"""``"module:function"`` by method of :class:`~scaled_sgd.core.network.HomogeneousMLP`, imported on use."""
