"""Side-by-side measurements: `make bench`. Figures are ratios of things measured in turns in one run."""
