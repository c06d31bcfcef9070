"""Data sets: images, text, speech, patches."""
