"""TVR for partially relevant video retrieval."""
