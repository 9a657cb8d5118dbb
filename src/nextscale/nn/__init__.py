"""The mathematics of the networks."""

HEAD_WIDTH = 64
"""Channels of an attention head, in every model (official code)."""
