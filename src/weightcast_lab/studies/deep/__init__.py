"""Deep networks trained from few learned weights in other ways: by others' methods, by ideas."""
