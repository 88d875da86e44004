import pytest

from kshot_ext.nas.datasets.part_names import LEFT_OUT, role_of, roles_in
from kshot_ext.nas.datasets.source import Part


@pytest.mark.parametrize(
    ("role", "names"),
    [
        (Part.TRAIN, "train Train TRAINING training_set trainset train-set Training-Data tr train2017 images_train"),
        (Part.VALIDATION, "val valid validation Validation_Set dev devset development val2017 val_images"),
        (Part.TEST, "test Testing test_set TestSet eval evaluation test.images holdout held-out test2017"),
        (LEFT_OUT, "extra unlabeled Unlabelled unlabeled_images"),
        (None, "cat trainer tested valley devil trains set data images 2017 train2 extraordinary _ ''"),
    ],
)
def test_names(role, names):
    assert {name: role_of(name) for name in names.split()} == dict.fromkeys(names.split(), role)


@pytest.mark.parametrize(
    ("roles", "names"),
    [
        (
            {Part.TRAIN},
            "01_train cifar10-train train_v1 train_256 mini_train train0 train(1) training.1 trainv2 miniTrain",
        ),
        ({Part.TEST}, "02_test cifar10-test test.1 held-out-1 testset2 test_tube"),
        ({Part.TRAIN, Part.TEST}, "train-test-split"),
        (set(), "tram trainer testament 01 v1 trainval devil2 strain"),
    ],
)
def test_words_of_names(roles, names):
    assert {name: roles_in(name) for name in names.split()} == dict.fromkeys(names.split(), roles)
