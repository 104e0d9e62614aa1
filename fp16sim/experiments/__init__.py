"""Complete experiments: what the commands run, as functions that return plain records."""
