"""The architectures that are supported, as rows of features, and how a file's metadata becomes a spec."""
