"""Features of all images of a data set, on any number of workers: to evaluate an encoder, and to keep them."""
