"""The HTTP server: the OpenAI Images API in front of a model, with Ray Serve beneath."""
