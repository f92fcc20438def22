"""The sub-commands of `tfs`, one module each with `main(arguments) -> exit status`; none imports TensorFlow."""
