"""Files of weights: encoders written for other tools, and whatever another program has saved."""
