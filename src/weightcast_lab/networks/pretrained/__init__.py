"""Networks that others trained, read from packages that ship their weights.

None is used by the library or its fast tests; their packages' code is never imported.
"""
