"""Replace these layers by those: convert, merge, compress, pretrain."""
