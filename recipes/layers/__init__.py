"""Recipe ``layers``: a feed-forward net whose layers do not wait for each other."""
