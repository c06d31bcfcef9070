"""Experiments: each trains networks and appends result rows; none of them draws."""
