"""Composite untrimmed videos for partially relevant video retrieval."""
