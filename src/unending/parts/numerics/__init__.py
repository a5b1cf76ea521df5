"""Numerical mechanisms that several learners share, each a module of its own that needs its own packages only."""
