"""Wiring only: which steps follow which, and the command line."""
