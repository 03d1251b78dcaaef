"""Measurements: each module is one command (`make bench-NAME`) and one file in bench/results/."""
