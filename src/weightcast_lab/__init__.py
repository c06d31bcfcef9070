"""weightcast_lab: what was measured with weightcast, and how."""
