"""Other ways than a synthesizer to carry credit across the ends of chunks."""
