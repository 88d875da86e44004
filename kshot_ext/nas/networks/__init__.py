"""The networks that are trained: supernet and simplex-net, and what is read off them."""
