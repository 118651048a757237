"""One run from its driver's side: check everything, start the workers, say what there is."""
