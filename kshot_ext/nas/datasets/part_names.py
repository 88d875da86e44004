"""Names that folders of training, validation and test images usually have."""

from __future__ import annotations

import re
from enum import Enum

from kshot_ext.nas.datasets.source import Part


class _Unused(Enum):
    LEFT_OUT = "left out"


LEFT_OUT = _Unused.LEFT_OUT
"""Role of images beside the parts that a search does not use: unlabelled ones, extra ones."""

Role = Part | _Unused

_NAMES: dict[Role, str] = {
    Part.TRAIN: "train training tr trn",
    Part.VALIDATION: "val valid validation validate validating va vld dev devel develop development",
    Part.TEST: "test testing tst te ts eval evaluation evaluate holdout heldout",
    LEFT_OUT: "extra extras unlabeled unlabelled unlabel unsup unsupervised",
}
_ROLES = {name: role for role, names in _NAMES.items() for name in names.split()}
_ADDED = "set|data|dataset|split|part|folder|dir|images?|imgs?|samples?"
_PATTERN = re.compile(rf"(?:{_ADDED})?({'|'.join(_ROLES)})(?:{_ADDED})?(?:(?:19|20)\d\d)?")


def role_of(folder_name: str) -> Role | None:
    """The role that a folder's name stands for, in whatever case and however joined; None if it is no such name.

    Example:
        >>> [role_of(name) for name in ("Training_Set", "val2017", "images-test", "unlabeled", "tram")]
        [<Part.TRAIN: 'train'>, <Part.VALIDATION: 'validation'>, <Part.TEST: 'test'>, <_Unused.LEFT_OUT: ...>, None]
    """
    match = _PATTERN.fullmatch(re.sub(r"[\W_]+", "", folder_name.casefold()))
    return None if match is None else _ROLES[match[1]]
