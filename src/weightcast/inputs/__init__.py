"""Example inputs: batches, a model that runs undisturbed, and what its layers are given."""
