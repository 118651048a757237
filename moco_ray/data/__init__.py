"""From object storage to augmented, position-addressed batches of images."""
