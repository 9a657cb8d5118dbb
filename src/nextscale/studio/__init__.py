"""The studio: a web page to generate, edit and look into models, on gradio."""
