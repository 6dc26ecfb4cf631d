"""Texts, vocabularies and streams of tokens."""
