"""One thing at a time: events that use the model share a queue."""

MODEL = "model"
WAITING = 64
"""Requests that may wait; more are told to come later."""
