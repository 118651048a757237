"""Ray: nodes, workers and what their controller decides. Every semi-public name of Ray is here or in sweep/."""
