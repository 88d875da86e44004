"""What the applications are made of: data that they render, networks, pictures, and what all of them share."""
