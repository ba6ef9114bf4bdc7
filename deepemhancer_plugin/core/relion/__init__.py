"""The enhancer inside RELION's refinement, `relion_refine --external_reconstruct`."""
