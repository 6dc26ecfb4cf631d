"""Tasks whose answers lie far from what they depend on."""
