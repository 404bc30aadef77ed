"""A student, a branch, a loss term and a teacher of somebody else's, each added from outside of the package."""
