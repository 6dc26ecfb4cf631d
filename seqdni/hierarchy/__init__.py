"""Cores at several rates, one above the other."""
