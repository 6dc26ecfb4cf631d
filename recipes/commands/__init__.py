"""The larger commands of ``seqdni``, with a file for each."""
