"""What a run leaves in its folder, file by file."""
