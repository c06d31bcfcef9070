"""Networks that others trained, compressed by our method and by its peers."""
