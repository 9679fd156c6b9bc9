"""Reports of readers: nothing left out is without a count, a reason and a name."""

from ncgn_jax.data.report import Reading
from ncgn_jax.data.splits import split_in, split_of


def test_a_report_says_what_was_found_used_and_left_out():
    reading = Reading("/data/mine", "images")
    for number in range(1200):
        reading.find(".png", f"{number}.png")
    reading.leave_out("animated", "b.gif")
    reading.leave_out("animated", "c.gif")
    reading.leave_out("never seen", "d", count=0)
    reading.say("sizes differ")
    reading.say("sizes differ")
    report = reading.report(
        {"train": 1000, "test": 198},
        "folders train and test",
        classes={"cat": (600, 100), "dog": (400, 98)},
        contents=("8x8x1", "uint8 0..255"),
        num_repeated=3,
    )
    assert report.brief == (
        "/data/mine: 1,198 images, 1,000 train, 198 test (folders train and test); "
        "left out: 2 animated; 3 images equal an earlier one exactly; sizes differ"
    )
    assert report.lines("mine") == [
        "data: mine; /data/mine: 1,198 images, 1,000 train, 198 test "
        "(folders train and test)",
        "  found: 1,200 .png (first 0.png)",
        "  left out: 2 animated (first b.gif)",
        "  classes: 2 (train + test): cat 600 + 100, dog 400 + 98",
        "  contents: 8x8x1; uint8 0..255",
        "  repeated: 3 images equal an earlier one exactly",
        "  NOTE: sizes differ",
    ]


def test_names_of_splits():
    for name in ("train", "Training", "TRAIN"):
        assert split_of(name) == "train"
    for name in ("val", "valid", "Validation", "dev"):
        assert split_of(name) == "val"
    for name in ("test", "Testing", "TEST"):
        assert split_of(name) == "test"
    for name in ("chair", "trains", "tested", "contest", ""):
        assert split_of(name) is None
        assert split_in(name) is None
    for name in ("X_train", "train_points", "trainImages", "ply_data_train0.h5"):
        assert split_in(name) == "train"
    # Two splits in one name decide nothing.
    assert split_in("train_test_split") is None
