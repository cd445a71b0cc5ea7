"""Programs that write what the package holds; none of them is installed with it."""
