"""What a pretrained encoder is worth, and files that other tools load."""
