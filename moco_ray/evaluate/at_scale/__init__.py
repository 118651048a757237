"""Features of any number of images, and what is measured on them, in chunks that any worker may take."""
