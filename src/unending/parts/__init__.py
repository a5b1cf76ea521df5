"""Mechanisms that several systems share."""
