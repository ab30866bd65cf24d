"""Models as files that run without PyTorch, and those files in our tools."""
