"""What keeps things on disk: atomic files, checksums, the cache, tensors."""
