"""Speed, memory and FLOPs of models."""
