"""What was measured: one study a file."""
