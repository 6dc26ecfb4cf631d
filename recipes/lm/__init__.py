"""Recipe ``lm``: a language model by character, word or subword."""
