"""Other ways to treat the ends of a chunk."""
