"""Every exception of i2p-zoo: one base class, each also the builtin that fits."""

from __future__ import annotations


class I2PError(Exception):
    """Base of every exception that i2p-zoo raises on purpose."""


class InvalidInputError(I2PError, ValueError):
    """An argument has a value, shape or type that the call cannot work with."""


class CoordinateMismatchError(I2PError, ValueError):
    """Two sparse tensors that must share their sites stand on different ones."""


class UnsupportedError(I2PError, NotImplementedError):
    """A layer, torch function or argument has no sparse counterpart."""


class MissingMethodError(UnsupportedError, AttributeError):
    """A method of torch.Tensor that sparse tensors do not have; `hasattr` sees it as any missing attribute."""


class NotFoundError(I2PError, LookupError):
    """A model, checkpoint or data set was not found in any of the places tried."""


class HubError(I2PError, OSError):
    """The Hugging Face Hub has the repository and did not give what was asked for."""


class CacheError(I2PError, OSError):
    """The cache of converted networks cannot be written."""


class CheckpointError(I2PError, ValueError):
    """A checkpoint's files are damaged, foreign or do not fit the model."""


class CertificateError(I2PError, ArithmeticError):
    """A converted network does not compute its 2D source's function on images."""


class DivergedError(I2PError, ArithmeticError):
    """A training run's loss is no longer a finite number."""


class WorkerError(I2PError, RuntimeError):
    """A process that prepares batches has ended, killed or for want of memory."""


class MissingExtraError(I2PError, ImportError):
    """An optional dependency is not installed; the message names the extra, as `extra` does."""

    extra: str | None = None
