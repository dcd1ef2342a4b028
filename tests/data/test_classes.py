"""One list of classes for sources that numbered their own."""

from __future__ import annotations

import numpy as np
import pytest

from bootdiff.data import Arrays, Reclassed, Subset, common_classes
from bootdiff.errors import BootdiffError


def source(labels, where, **options):
    x = np.arange(len(labels) * 4, dtype=np.uint8).reshape(len(labels), 2, 2)
    return Arrays(x, labels=None if labels is None else np.array(labels), where=where, **options)


CATS = source(["dog", "cat", "cat"], "full.npz")
BIRDS = source(["dog", "ant", "cat", "dog"], "view.npz")


def test_names_make_one_list_in_order_of_appearance():
    assert CATS.classes == ["cat", "dog"]
    assert BIRDS.classes == ["ant", "cat", "dog"]
    assert common_classes({"full": CATS, "view": BIRDS}) == ["cat", "dog", "ant"]
    assert common_classes({"view": BIRDS, "full": CATS}) == ["ant", "cat", "dog"]


def test_sources_without_labels_do_not_count():
    plain = Arrays(np.zeros((3, 2, 2), np.uint8))
    assert common_classes({"full": plain}) is None
    assert common_classes({"full": plain, "view": BIRDS}) == ["ant", "cat", "dog"]


def test_bare_numbers_mean_the_same_everywhere():
    """An array whose largest label is 1 knows two classes, another of the same data may know eleven."""
    few, many = source([0, 1, 1], "few"), source([10, 0, 2], "many")
    assert common_classes({"full": few, "view": many}) == [str(i) for i in range(11)]


@pytest.mark.parametrize("other", [source(["Katze", "Hund"], "view.npz"), source([0, 1, 1], "view.npz")])
def test_classes_that_do_not_meet_are_refused(other):
    for sources in ({"full": CATS, "view x": other}, {"view x": other, "full": CATS}):
        with pytest.raises(BootdiffError, match="are not the same ones") as error:
            common_classes(sources)
        for part in ("full", "cat, dog", "full.npz", "view x", ", ".join(other.classes), "view.npz"):
            assert part in str(error.value)


def test_numbers_follow_the_names():
    classes = ["cat", "dog", "ant"]
    mapped = Subset(Reclassed(BIRDS, classes), [3, 1, 2])
    assert mapped.classes == classes
    x, labels, _ = mapped.batch([0, 1, 2])
    assert [classes[i] for i in labels.tolist()] == ["dog", "ant", "cat"]
    assert [mapped[i].label for i in range(3)] == labels.tolist()
    assert (x == BIRDS.batch([3, 1, 2])[0]).all()
    assert Reclassed(BIRDS, classes).fingerprint() not in (
        BIRDS.fingerprint(), Reclassed(BIRDS, ["ant", "cat", "dog"]).fingerprint()
    )  # fmt: skip
