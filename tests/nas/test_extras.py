from email.message import Message
from importlib import metadata

import pytest

from kshot_ext.nas.extras import MissingExtraError, lacking_by_extra, require


def test_a_missing_library_names_the_cure() -> None:
    with pytest.raises(MissingExtraError, match=r"no_such_library .* pip install 'kshot_ext\[search\]'"):
        require("no_such_library.part")


def test_a_missing_part_of_a_present_library_is_not_hidden() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"json\.no_such_part"):
        require("json.no_such_part")


def test_what_each_extra_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    own = Message()
    for name in ("plots", "all", "none"):
        own["Provides-Extra"] = name
    own["Requires-Dist"] = "torch>=2.10"
    own["Requires-Dist"] = 'pytest; extra == "plots"'
    own["Requires-Dist"] = 'no-such.thing>=1.2; extra == "plots"'
    own["Requires-Dist"] = 'not_there; python_version < "3" and extra == "plots"'
    own["Requires-Dist"] = 'kshot_ext[plots]; extra == "all"'
    monkeypatch.setattr(metadata, "metadata", lambda name: own)
    assert lacking_by_extra() == {"plots": ["no-such.thing"], "all": [], "none": []}


def test_a_checkout_that_is_not_installed_has_no_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(name: str) -> Message:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "metadata", unknown)
    assert lacking_by_extra() == {}
