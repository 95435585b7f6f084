"""The networks, as torch modules: one file for each box of the figure. This is their definition."""
