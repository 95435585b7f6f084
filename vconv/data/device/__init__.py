"""Features and augmentation of whole batches by torch, on the training device; workers only read and decode.

B items, N samples, T mel frames. Each function is the twin of one in numpy, which its docstring names and a test holds
it equal to; ``vconv.features`` stays the definition.
"""
