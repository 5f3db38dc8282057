"""What torch functions do on tokens and on pairs of tokens, one file a kind; importing the package fills the table."""

from i2p_zoo.sparse.token_functions import (  # noqa: F401
    attention,
    token_arithmetic,
    token_dimensions,
    token_joins,
    token_layers,
    token_pooling,
    token_products,
    token_reductions,
    token_resizing,
    token_shifts,
    token_slices,
    token_unfolding,
    token_values,
)
