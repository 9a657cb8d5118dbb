"""Images in: sources, decoding, cropping and batches that resume exactly."""
