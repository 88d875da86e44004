"""The commands of `kshot-ext`, behind the parsing of their arguments."""
