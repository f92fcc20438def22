"""tfs: a model server that speaks the TensorFlow Serving API. `tfs.client` is the light client; `tfs serve` the server."""

__version__ = "0.1.0"
