"""Query-to-video similarity: maxima over frames."""
