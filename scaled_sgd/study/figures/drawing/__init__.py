"""How figures are drawn: looks, panels, and what a figure is."""
