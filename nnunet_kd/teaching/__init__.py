"""Where the teaching of a batch comes from."""
