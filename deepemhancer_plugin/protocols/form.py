"""The form of the enhancement, and the parts of it that other protocols have too.

Parameters that Xmipp's protocol also has keep its names and defaults, so that its workflows carry
over.
"""

from pyworkflow.protocol import params

from deepemhancer_plugin.constants import (
    AVERAGES,
    DEEPEMHANCER_MODELS,
    MODEL_HIGHRES,
    MODEL_TIGHT,
    MODEL_WIDE,
    MODELS_PACKAGE,
    NORMALIZATION_AUTO,
    NORMALIZATION_MASK,
    NORMALIZATION_STATS,
    WEIGHTS_EMBEDDED,
    WEIGHTS_FILE,
    WEIGHTS_OFFICIAL,
)

# The texts of Xmipp's form
NORMALIZATION_CHOICES = [
    "Automatic normalization",
    "Normalization from statistics",
    "Normalization from binary mask",
]
MODEL_CHOICES = ["tight target", "wide target", "highRes"]
WEIGHTS_CHOICES = ["embedded", "official", "file"]


def add_parameters(form):
    """Add all parameters of the enhancement to a pyworkflow Form."""
    form.addSection(label="Input")
    add_gpu(
        form,
        "A single map uses them all. The maps of a set come one after the other, each on all "
        "GPUs. With more *Scipion threads*, as many maps as threads but one run at a time, and "
        "the GPUs are dealt out among them.",
    )
    _add_maps(form)
    _add_normalization(form)
    group = add_model(form, f"normalization in [{NORMALIZATION_AUTO}, {NORMALIZATION_STATS}]")
    group.addParam(
        "batch_size",
        params.IntParam,
        default=8,
        allowsNull=False,
        label="Batch size",
        expertLevel=params.LEVEL_ADVANCED,
        validators=[params.GE(1, "should be at least 1.")],
        help="Number of tiles that a GPU computes at once; not used on the CPU. The program "
        "takes less by itself where the memory is short; the wizard proposes a value for "
        "your GPU.",
    )
    _add_orientations(group)
    _add_symmetry(form)
    _add_cleaning(form)
    _add_trust(form)
    form.addParallelSection(threads=1, mpi=0)
    # A number beside the Scipion threads, which only run several maps of a set at a time.
    add_threads(form, "binThreads")


def add_gpu(form, sharing):
    """Add the hidden parameters of program.ProgramProtocol.

    Args:
        form: pyworkflow Form.
        sharing: Sentence for the help that says how several GPUs are used.
    """
    form.addHidden(
        params.USE_GPU,
        params.BooleanParam,
        default=True,
        label="Use GPU?",
        help="*Yes*: run on the GPUs listed beside; a GPU that is not there is an error, never a "
        "silent run on the CPU.\n"
        "*No*: run on the CPU, which gives the same map, more slowly.",
    )
    form.addHidden(
        params.GPU_LIST,
        params.StringParam,
        default="0",
        label="GPU IDs",
        help="Numbers of the GPUs, counted from 0, separated by blanks, commas or ranges (0-3).\n"
        "Empty: the GPUs that are there, else the CPU.\n"
        "They count the GPUs that are visible to the run: in a queue, 0 is the first one that "
        "the queue gave to the job.\n"
        f"{sharing}",
    )


def add_threads(form, name):
    """Add the number of CPU cores of a run.

    Args:
        form: pyworkflow Form, after its section of the parallelization.
        name: Of the parameter, as pyworkflow calls the threads of a program.
    """
    form.addParam(
        name,
        params.IntParam,
        default=0,
        allowsNull=False,
        label="Threads",
        validators=[params.GE(0, "should not be negative.")],
        help="CPU cores that a map uses; on the GPU they only prepare and finish it.\n"
        "0: all that the run may use. In a queue so many cores are asked for, 1 for a 0: give "
        "a number there.",
    )


def _add_maps(form):
    """Add the input maps."""
    form.addParam(
        "useHalfMapsInsteadVol",
        params.BooleanParam,
        default=False,
        label="Use half maps?",
        help="*Yes* whenever you have them: the enhanced map is that of their mean, and the "
        "noise is measured on their difference instead of guessed from the corners of the "
        "box.\n"
        "Half maps and maps must come straight from the refinement: *not masked, not "
        "sharpened, not filtered*.",
    )
    form.addParam(
        "halfMapsAttached",
        params.BooleanParam,
        default=True,
        condition="useHalfMapsInsteadVol",
        label="Are the half maps attached to the volume?",
        help="*Yes*: the volume was imported (or refined) together with its half maps.\n"
        "*No*: choose the two half maps as volumes of their own.",
    )
    _add_separate_halves(form)
    form.addParam(
        "inputVolume",
        params.PointerParam,
        pointerClass="Volume, SetOfVolumes",
        label="Input volume(s)",
        important=True,
        allowsNull=True,
        condition="not useHalfMapsInsteadVol or halfMapsAttached",
        help="The map to enhance: *not masked, not sharpened*. A set of volumes gives a set of "
        "enhanced volumes, each treated on its own.",
    )


def _add_separate_halves(form):
    """Add the half maps that are volumes of their own."""
    form.addParam(
        "inputHalf1",
        params.PointerParam,
        pointerClass="Volume",
        label="Half map 1",
        important=True,
        allowsNull=True,
        condition="useHalfMapsInsteadVol and not halfMapsAttached",
        help="First half map: not masked, not sharpened.",
    )
    form.addParam(
        "inputHalf2",
        params.PointerParam,
        pointerClass="Volume",
        label="Half map 2",
        important=True,
        allowsNull=True,
        condition="useHalfMapsInsteadVol and not halfMapsAttached",
        help="Second half map, of the same box and sampling rate.",
    )


def _add_normalization(form):
    """Add the normalization of the input."""
    group = form.addGroup("Normalization")
    group.addParam(
        "normalization",
        params.EnumParam,
        choices=NORMALIZATION_CHOICES,
        default=NORMALIZATION_AUTO,
        label="Input normalization",
        help="The network expects noise of a known strength, so the map is scaled by its noise "
        "first.\n"
        f"*{NORMALIZATION_CHOICES[NORMALIZATION_AUTO]}*: measured on the difference of the half "
        "maps, or, with a single map, on the shell around the particle. Good for nearly every "
        "map.\n"
        f"*{NORMALIZATION_CHOICES[NORMALIZATION_STATS]}*: you give the mean and the standard "
        "deviation of the noise; the wizard measures them.\n"
        f"*{NORMALIZATION_CHOICES[NORMALIZATION_MASK]}*: you give a mask of the protein, as tight "
        "as possible; the enhanced map is zero outside. Official weights: those for masks, which "
        "scale by the density inside. Embedded weights: the tight target, scaled by the noise of "
        "the half maps or of what lies outside the mask, which is as good or better.\n"
        "If an enhanced map looks empty or noisy, the normalization is the first thing to "
        "change.",
    )
    add_mask(
        group,
        f"normalization=={NORMALIZATION_MASK}",
        "Mask of the protein, of the map's box and sampling rate: 1 inside, 0 outside.",
    )
    group.addParam(
        "noiseMean",
        params.FloatParam,
        allowsNull=True,
        label="Noise mean",
        condition=f"normalization=={NORMALIZATION_STATS}",
        help="Mean of the map where there is only noise. It may be negative. The wizard measures "
        "it.",
    )
    group.addParam(
        "noiseStd",
        params.FloatParam,
        allowsNull=True,
        label="Noise standard deviation",
        condition=f"normalization=={NORMALIZATION_STATS}",
        help="Standard deviation of the map where there is only noise; greater than 0. The "
        "wizard measures it.",
    )


def add_mask(form, condition, text):
    """Add a mask and the threshold that makes it binary.

    Args:
        form: Form or group.
        condition: When both are shown; None: always.
        text: Help of the mask.
    """
    form.addParam(
        "inputMask",
        params.PointerParam,
        pointerClass="VolumeMask",
        allowsNull=True,
        label="Mask",
        condition=condition,
        help=text,
    )
    form.addParam(
        "maskThreshold",
        params.FloatParam,
        default=0.5,
        label="Mask threshold",
        expertLevel=params.LEVEL_ADVANCED,
        condition=condition,
        help="Voxels of the mask above this value are protein. Any value between 0 and 1 does "
        "for a mask of zeros and ones; for a mask with a soft edge it says how much of the "
        "edge belongs to the protein. The wizard proposes a value.",
    )


def add_model(form, condition):
    """Add the variant of the network and the weights.

    Args:
        form: pyworkflow Form.
        condition: When the variant is shown; None: always.

    Returns:
        The group of these parameters.
    """
    group = form.addGroup("Model")
    group.addParam(
        "modelType",
        params.EnumParam,
        choices=MODEL_CHOICES,
        default=MODEL_TIGHT,
        label="Model power",
        condition=condition,
        help="What the network was trained to produce.\n"
        f"*{MODEL_CHOICES[MODEL_TIGHT]}*: sharp, with the solvent set to zero close to the "
        "protein; weak parts may vanish with it.\n"
        f"*{MODEL_CHOICES[MODEL_WIDE]}*: a looser mask, less sharp; choose it when parts of the "
        "protein get lost.\n"
        f"*{MODEL_CHOICES[MODEL_HIGHRES]}*: only for maps better than 4 A.\n"
        "*Caution*: the network knows proteins. Ligands, lipids, glycans and modified residues "
        "may come out wrong, weakened or not at all, and a feature that is not in the input map "
        "is no evidence. Look at the input map before you build anything, and refine and "
        "validate the model against the half maps, not against this map.",
    )
    group.addParam(
        "weights",
        params.EnumParam,
        choices=WEIGHTS_CHOICES,
        default=WEIGHTS_EMBEDDED,
        label="Weights",
        help="Which trained network to use; the map's header and the summary name it.\n"
        f"*{WEIGHTS_CHOICES[WEIGHTS_EMBEDDED]}*: those that come with this plugin; nothing to "
        "download.\n"
        f"*{WEIGHTS_CHOICES[WEIGHTS_OFFICIAL]}*: those of the authors of DeepEMhancer (_scipion3 "
        f"installb {MODELS_PACKAGE}_, or {DEEPEMHANCER_MODELS} in scipion.conf).\n"
        f"*{WEIGHTS_CHOICES[WEIGHTS_FILE]}*: a file of yours.",
    )
    group.addParam(
        "weightsFile",
        params.FileParam,
        allowsNull=True,
        label="Weights file",
        condition=f"weights=={WEIGHTS_FILE}",
        help="A network trained with _deepemhancer train_, or a checkpoint of the original "
        "program (.hd5).",
    )
    return group


def _add_symmetry(form):
    """Add the point group and the helix."""
    group = form.addGroup("Symmetry", expertLevel=params.LEVEL_ADVANCED)
    group.addParam(
        "symmetryGroup",
        params.StringParam,
        default="c1",
        expertLevel=params.LEVEL_ADVANCED,
        label="Symmetry",
        help="Point group over which the enhanced map is averaged, in RELION's conventions: c4, "
        "d2, t, o, i, i1 ... The summary says how well the map had it before.\n"
        "_c1_: none, or that of the helix below.",
    )
    helix = group.addLine(
        "Helix",
        expertLevel=params.LEVEL_ADVANCED,
        condition="(symmetryGroup or '').strip().lower() in ('', 'c1')",
        help="Of a fibre along z: rise in A and twist in degrees (positive: right-handed) from "
        "one subunit to the next; the enhanced map is averaged over them. Empty: no helix.",
    )
    for name, label in (("helicalRise", "Rise (A)"), ("helicalTwist", "Twist (degrees)")):
        helix.addParam(
            name, params.FloatParam, allowsNull=True, expertLevel=params.LEVEL_ADVANCED, label=label
        )


def _add_orientations(group):
    """Add the number of orientations to the group of the model."""
    group.addParam(
        "averageOver",
        params.EnumParam,
        choices=["automatic", *map(str, AVERAGES[1:])],
        default=0,
        expertLevel=params.LEVEL_ADVANCED,
        label="Orientations to average",
        help="Each part of the map is shown to the network in so many orientations: up to so "
        "many times slower, and less dependent on how the map happens to lie. With embedded "
        "weights what all of them see is kept, with the others they are averaged.\n"
        "*automatic*: with embedded weights 4 for maps up to 160 A, 2 for larger ones; "
        "otherwise 1.",
    )


def _add_trust(form):
    """Add the comparison of the enhanced map with the half maps."""
    condition = "useHalfMapsInsteadVol"
    group = form.addGroup("Trust", expertLevel=params.LEVEL_ADVANCED, condition=condition)
    group.addParam(
        "checkTrust",
        params.BooleanParam,
        default=False,
        expertLevel=params.LEVEL_ADVANCED,
        label="Measure how far the data support it?",
        condition=condition,
        help="*Yes*: the enhanced map is compared with the half maps. The summary then says in "
        "how much of it its local resolution claims more detail than they support. It takes "
        "some ten seconds for 128 voxels a side.",
    )


def _add_cleaning(form):
    """Add the removal of small islands."""
    group = form.addGroup("Cleaning", expertLevel=params.LEVEL_ADVANCED)
    group.addParam(
        "performCleaningStep",
        params.BooleanParam,
        default=False,
        label="Remove small islands?",
        expertLevel=params.LEVEL_ADVANCED,
        help="*Yes*: islands of density that are not connected to the rest are set to the "
        "background after the enhancement. They are mostly noise; a small subunit that "
        "touches nothing would go too. The summary says how much went.",
    )
    group.addParam(
        "sizeFraction_CC",
        params.FloatParam,
        default=0.05,
        allowsNull=False,
        expertLevel=params.LEVEL_ADVANCED,
        condition="performCleaningStep",
        label="Relative size (0 to 1)",
        validators=[params.Range(0, 1, "should lie between 0 and 1.")],
        help="Islands smaller than this fraction of all positive voxels are removed.",
    )
