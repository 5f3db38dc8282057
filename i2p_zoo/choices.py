"""The words that options choose among. Nothing is imported here, so that the command line offers them without loading torch."""

AXES = ("z", "y", "x")
INFLATIONS = ("center", "average", "copy")
STEMS = ("image", "point", "patch")
PRESETS = ("image2point",)
NORMALIZATIONS = ("unit_sphere", "centred")
MODES = ("all", "io+bn", "io+stats", "io", "head", "none")
OPTIMIZERS = ("sgd", "adamw")
PRECISIONS = ("auto", "no", "bf16", "fp16")
KEPT_WEIGHTS = ("last", "best")
LOSSES = ("cross-entropy", "lovasz", "both")
DEVOXELIZATIONS = ("trilinear", "nearest")
