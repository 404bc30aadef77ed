"""Charades-STA for partially relevant video retrieval."""
