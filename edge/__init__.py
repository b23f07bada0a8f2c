"""HTTP in, verdict out."""
