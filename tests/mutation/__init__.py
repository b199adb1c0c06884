"""Faults that are seeded into the checks of the sources, to see that tests notice."""
