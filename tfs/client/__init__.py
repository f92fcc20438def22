"""The light client: needs numpy and grpcio, never TensorFlow."""
