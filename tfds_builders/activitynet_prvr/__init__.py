"""ActivityNet Captions for partially relevant video retrieval."""
