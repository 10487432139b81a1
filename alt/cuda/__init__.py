"""Code for NVIDIA GPUs: what they are, lowering, nvcc, legality, and running."""
