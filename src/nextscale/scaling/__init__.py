"""Scaling laws: train a family of depths on the same fresh images, fit power laws, predict larger models."""
