"""Before a model file is used: are its tensors the ones this architecture needs, all of them, in the right shapes?

Every loader (transformer, text encoder, VAE) infers an architecture from a few shapes and then asks
`check_tensors` to compare the whole file with it, so that a truncated, foreign or converted-by-mistake file
ends in one sentence instead of a traceback.
"""

from collections.abc import Iterable, Mapping

from wan_tutorial.errors import WanError


def check_tensors(found: Mapping, expected: Mapping, *, what: str) -> None:
    """Raise WanError unless `found` and `expected` hold the same names with the same shapes.

    Both map names to anything with a `.shape`; `what` names the model for the reader ("the VAE").
    """
    missing = [name for name in expected if name not in found]
    foreign = [name for name in found if name not in expected]
    if missing:
        raise WanError(
            f"{what} needs {len(expected)} tensors, but {len(missing)} are not in this file ({_some(missing)}): "
            "it is incomplete or of another model; download it again or choose another file."
        )
    if foreign:
        raise WanError(
            f"{what} has no place for {len(foreign)} of this file's tensors ({_some(foreign)}): "
            "the file belongs to another model; choose the one made for this role."
        )
    wrong = [name for name in expected if tuple(found[name].shape) != tuple(expected[name].shape)]
    if wrong:
        name = wrong[0]
        raise WanError(
            f"{what} expects {name} of shape {tuple(expected[name].shape)}, but this file has "
            f"{tuple(found[name].shape)} ({len(wrong)} tensors have another shape): "
            "the file belongs to another model or was converted wrongly; choose another file."
        )


def _some(names: Iterable[str], limit: int = 3) -> str:
    names = list(names)
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")
