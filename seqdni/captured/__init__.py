"""Training chunks as CUDA graphs: what the device computes is recorded once, and repeated."""
