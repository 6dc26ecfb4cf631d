"""Synthesizers, which predict gradients, and controls for experiments."""

from seqdni.synthesizers import controls as controls
