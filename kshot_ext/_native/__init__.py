"""Finding and building the compiled library; `kshot_ext.backend` is the only user besides setup.py."""
