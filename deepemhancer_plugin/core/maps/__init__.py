"""Maps: files, grids, filters, spectra, symmetry, components."""
