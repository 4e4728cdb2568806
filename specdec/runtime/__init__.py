"""The interpreter that decodes: effects become forward passes of two Hugging Face models, which work at the same time."""
