"""Feed-forward nets whose layers are updated without waiting for the layers after them."""
