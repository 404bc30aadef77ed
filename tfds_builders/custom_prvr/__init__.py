"""Anybody's own videos, from the files that an extraction of features left."""
