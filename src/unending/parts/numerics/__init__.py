"""Numerical mechanisms that several learners share; each in a module of its own, so that one needs only its packages."""
