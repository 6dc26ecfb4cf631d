"""What predicts synthetic gradients, and controls for experiments."""
