"""A gallery of videos on disk, searched with sentences: which video, and when in it."""
