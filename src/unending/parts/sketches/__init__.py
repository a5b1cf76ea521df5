"""Summaries of bounded size over streams that pass once. Import each from its own module."""
