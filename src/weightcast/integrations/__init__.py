"""For other people's tools, one file a neighbour: Lightning, the Hub."""
