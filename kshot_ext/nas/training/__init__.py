"""Training of supernets, simplex-nets and single networks."""
