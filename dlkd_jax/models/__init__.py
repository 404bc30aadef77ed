"""The student's networks and the conversion of the release's parameters."""
