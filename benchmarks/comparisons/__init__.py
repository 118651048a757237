"""What the papers compare, each a script with a table and a plot; docs/comparisons.md has the figures."""
