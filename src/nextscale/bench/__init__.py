"""Costs and speed: FLOPs, times, memory, and models of all families side by side."""
