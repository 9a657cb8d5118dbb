"""Metrics: features, Frechet distance, class accuracy, reconstruction error."""
