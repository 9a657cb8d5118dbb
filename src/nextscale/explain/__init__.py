"""The interactive account of the method: static files that `make explain` builds from web/, and who serves them."""
