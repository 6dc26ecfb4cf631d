"""Synthesizers, which predict gradients, and controls for experiments."""
