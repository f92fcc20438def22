"""The control plane: which versions are loaded. Thinks in seconds; never blocks the data path or the event loop."""
