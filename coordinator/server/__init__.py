"""The protocols over HTTP: each makes one request of a client's body, and its form of the answer."""
