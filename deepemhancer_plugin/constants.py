"""Names that the plugin, the protocols, the viewers and the wizards share."""

# Variables of scipion.conf
DEEPEMHANCER_HOME = "DEEPEMHANCER_HOME"
DEEPEMHANCER_ENV_ACTIVATION = "DEEPEMHANCER_ENV_ACTIVATION"
DEEPEMHANCER_MODELS = "DEEPEMHANCER_MODELS"

# Packages of `scipion3 installb`
PACKAGE = "deepemhancer"
MODELS_PACKAGE = "deepemhancer_models"
MODELS_VERSION = "0.17"  # the release of the original program whose checkpoints these are
URL = "https://github.com/rsanchezgarc/deepEMhancer"

# Files whose existence says that a step of the installation succeeded
ENV_CREATED = "ENVIRONMENT_CREATED"
ENV_READY = "DEPENDENCIES_INSTALLED"

# Where the official checkpoints lie below DEEPEMHANCER_MODELS, as the original program has them
CHECKPOINTS_FOLDER = "production_checkpoints"
CHECKPOINT = "deepEMhancer_%s.hd5"
MODEL_NAMES = ("tightTarget", "wideTarget", "highRes")  # in the order of the form
MASKED_MODEL = "masked"

# Values of the form
NORMALIZATION_AUTO, NORMALIZATION_STATS, NORMALIZATION_MASK = range(3)
MODEL_TIGHT, MODEL_WIDE, MODEL_HIGHRES = range(3)
WEIGHTS_EMBEDDED, WEIGHTS_OFFICIAL, WEIGHTS_FILE = range(3)
AVERAGES = (0, 1, 2, 4, 24)  # orientations; 0: chosen by the weights
NETWORK_AUTO, NETWORK_COARSE, NETWORK_FINE, NETWORK_FILE = range(4)
NETWORK_NAMES = ("auto", "1.0", "0.5")  # as `deepemhancer localres` calls them

# Angular sampling in degrees of each HEALPix order, as RELION's forms call them
RELION_SAMPLINGS = ["30", "15", "7.5", "3.7", "1.8", "0.9", "0.5", "0.2", "0.1"]
