"""Training on one rank: the loop, what it records, and what it asks of its surroundings."""
