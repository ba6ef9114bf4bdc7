"""The enhancer as the regulariser inside RELION's refinement (`relion_refine --external_reconstruct`)."""
