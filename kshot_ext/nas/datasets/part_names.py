"""Names that folders of training, validation and test images usually have."""

from __future__ import annotations

import re
from enum import Enum
from itertools import pairwise

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


def roles_in(folder_name: str) -> set[Role]:
    """The roles that words of a name stand for: of a numbered, versioned or prefixed name, and by chance of others.

    Words end at whatever is no letter, and before a capital that follows a small letter; a ``v`` before a number is
    none of theirs. Two words in a row may be one, as in "held-out".

    Example:
        >>> [roles_in(name) for name in ("01_train", "cifar10-test", "trainv2", "test_tube", "tram")]
        [{<Part.TRAIN: 'train'>}, {<Part.TEST: 'test'>}, {<Part.TRAIN: 'train'>}, {<Part.TEST: 'test'>}, set()]
    """
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])|[vV](?=\d)", " ", folder_name)
    words = re.findall(r"[^\W\d_]+", parted)
    pairs = map("".join, pairwise(words))
    return {role for word in (folder_name, *words, *pairs) if (role := role_of(word)) is not None}
