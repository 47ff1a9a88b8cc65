"""Side-by-side measurements of rlalign, its peers and the limit of the matrix products."""
