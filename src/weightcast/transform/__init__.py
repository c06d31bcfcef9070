"""What changes a model: layers replaced (convert, merge, compress), and pre-trained."""
