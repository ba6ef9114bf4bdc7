"""Names that the plugin, the protocols, the viewers and the wizards share."""

# Variables of scipion.conf
DEEPEMHANCER_HOME = "DEEPEMHANCER_HOME"
DEEPEMHANCER_ENV_ACTIVATION = "DEEPEMHANCER_ENV_ACTIVATION"
DEEPEMHANCER_FRAMEWORK = "DEEPEMHANCER_FRAMEWORK"
DEEPEMHANCER_MODELS = "DEEPEMHANCER_MODELS"

# Packages of `scipion3 installb`
PACKAGE = "deepemhancer"
# Raised with requirements-inference.txt or plugin.FRAMEWORKS alone: a new environment is gigabytes.
ENV_VERSION = "1.0"
MODELS_PACKAGE = "deepemhancer_models"
MODELS_VERSION = "0.17"  # the release of the original program whose checkpoints these are

# The plugin's own pages
URL = "https://github.com/scipion-em/scipion-em-deepemhancer"
_PAGE = f"{URL}/blob/HEAD/docs/scipion.md"
PAGES = {
    "ProtDeepEMhancer": f"{_PAGE}#the-protocol",
    "ProtDeepRes": f"{_PAGE}#local-resolution",
    "ProtRelionRefineDeepEMhancer": f"{_PAGE}#relions-refinement-with-the-enhancer",
}

# Files whose existence says that a step of the installation succeeded
ENV_CREATED = "ENVIRONMENT_CREATED"
ENV_READY = "DEPENDENCIES_INSTALLED_%s"  # of each framework

# Where the official checkpoints lie below DEEPEMHANCER_MODELS, as the original program has them
CHECKPOINTS_FOLDER = "production_checkpoints"
CHECKPOINT = "deepEMhancer_%s.hd5"
XMIPP_MODELS = "models/deepEMhancer_v016"  # below XMIPP_HOME: Xmipp's download of the same
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
