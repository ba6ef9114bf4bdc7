"""References of the plugin, in BibTeX; Scipion reads them from this docstring.

@article{SanchezGarcia2021,
  title = {DeepEMhancer: a deep learning solution for cryo-EM volume post-processing},
  author = {Sanchez-Garcia, Ruben and Gomez-Blanco, Josue and Cuervo, Ana and
            Carazo, Jose Maria and Sorzano, Carlos Oscar S. and Vargas, Javier},
  journal = {Communications Biology},
  volume = {4},
  pages = {874},
  year = {2021},
  doi = {https://doi.org/10.1038/s42003-021-02399-1}
}

@article{Scheres2012,
  title = {RELION: Implementation of a Bayesian approach to cryo-EM structure determination},
  author = {Scheres, Sjors H. W.},
  journal = {Journal of Structural Biology},
  volume = {180},
  pages = {519--530},
  year = {2012},
  doi = {https://doi.org/10.1016/j.jsb.2012.09.006}
}

@article{Kimanius2016,
  title = {Accelerated cryo-EM structure determination with parallelisation using GPUs in RELION-2},
  author = {Kimanius, Dari and Forsberg, Björn O. and Scheres, Sjors H. W. and Lindahl, Erik},
  journal = {eLife},
  volume = {5},
  pages = {e18722},
  year = {2016},
  doi = {https://doi.org/10.7554/eLife.18722}
}

@article{RamirezAportela2022,
  title = {Higher resolution in cryo-EM by the combination of macromolecular
           prior knowledge and image-processing tools},
  author = {Ramírez-Aportela, Erney and Carazo, Jose Maria and Sorzano, Carlos Oscar S.},
  journal = {IUCrJ},
  volume = {9},
  pages = {632--638},
  year = {2022},
  doi = {https://doi.org/10.1107/S2052252522006959}
}

@article{RamirezAportela2019,
  title = {DeepRes: a new deep-learning- and aspect-based local resolution
           method for electron-microscopy maps},
  author = {Ramírez-Aportela, Erney and Mota, Javier and Conesa, Pablo and Carazo, Jose Maria and
            Sorzano, Carlos Oscar S.},
  journal = {IUCrJ},
  volume = {6},
  pages = {1054--1063},
  year = {2019},
  doi = {https://doi.org/10.1107/S2052252519011692}
}

@article{Jakobi2017,
  title = {Model-based local density sharpening of cryo-EM maps},
  author = {Jakobi, Arjen J. and Wilmanns, Matthias and Sachse, Carsten},
  journal = {eLife},
  volume = {6},
  pages = {e27131},
  year = {2017},
  doi = {https://doi.org/10.7554/eLife.27131}
}
"""
