"""Drawing of figures: style, panels and the figure type."""
