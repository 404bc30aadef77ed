"""A generated data set for partially relevant video retrieval."""
