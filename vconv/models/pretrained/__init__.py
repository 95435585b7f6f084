"""PyTorch twins of the frozen networks, for losses that need gradients and for export."""
