"""Recipe ``count-digits``: two networks that tick at different rates."""
