"""Sweeps: many trials, each run in a process of its own, and the result rows they leave."""
