"""Image formats: what each file says of its samples, and how they become upright RGB of 8 bits."""
