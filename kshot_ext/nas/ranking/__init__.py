"""How well a supernet ranks architectures."""
