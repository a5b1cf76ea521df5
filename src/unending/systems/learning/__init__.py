"""Learners that see each example once. Each stands on packages of its own, so import it from its own module."""
