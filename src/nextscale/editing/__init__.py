"""Zero-shot editing: masks and regions of images -> hooks of the sampler -> images put back together."""
