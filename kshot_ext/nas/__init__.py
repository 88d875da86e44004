"""K-shot neural architecture search on top of the operators."""
