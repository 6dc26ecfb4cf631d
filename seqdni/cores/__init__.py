"""Recurrent cores, and models around them."""
