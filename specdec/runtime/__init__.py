"""The real world: two Hugging Face models, really in parallel."""
