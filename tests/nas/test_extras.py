import pytest

from kshot_ext.nas.extras import MissingExtraError, require


def test_a_missing_library_names_the_cure() -> None:
    with pytest.raises(MissingExtraError, match=r"no_such_library .* pip install 'kshot_ext\[search\]'"):
        require("no_such_library.part")


def test_a_missing_part_of_a_present_library_is_not_hidden() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"json\.no_such_part"):
        require("json.no_such_part")
