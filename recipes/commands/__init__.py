"""The commands of ``seqdni`` that are more than a call of a recipe: a file for each."""
