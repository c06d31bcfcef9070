"""What the commands do beyond one experiment: run it, then draw it."""
