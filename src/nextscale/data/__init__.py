"""Images and their labels: finding, reading, cropping, batches that resume exactly, token caches. Imports no model."""
