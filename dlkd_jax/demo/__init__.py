"""A demonstration from nothing: rendered films, a teacher trained on other pictures, students and their table."""
