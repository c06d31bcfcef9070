import weightcast as wc
from weightcast_lab.studies.real.digits_task import DigitClassifier
from weightcast_lab.studies.shrink_real import TOLERANCE, shrunk
from weightcast_lab.sweeps.rows import append_row, read_rows


def test_a_small_network_is_found_on_validation_data_and_measured_once(tmp_path):
    task = DigitClassifier()
    row = shrunk(task, 0)
    trials = row["shrink"]["trials"]
    dense, chosen = trials[0], min((t for t in trials[1:] if t["holds"]), key=lambda t: t["stored"])
    assert dense["metric"] < 4
    assert chosen["metric"] <= dense["metric"] + TOLERANCE
    assert row["counts"]["stored"] == chosen["stored"] < 0.3 * row["counts"]["dense"]
    assert row["counts"]["dense"] == wc.ledger(task.model).total.stored == 155_530
    assert row["metrics"]["dense_test_error"] == task.evaluate(task.model)["test_error"] < 4
    append_row(tmp_path / "rows.jsonl", row)
    assert read_rows(tmp_path / "rows.jsonl") == [row]


def test_what_validates_is_neither_trained_on_nor_tested():
    task = DigitClassifier()
    calibration = {tuple(image.flatten().tolist()) for image in task.calibration(1)[0]}
    parts = task._images[:1_000], task._images[1_000:1_400], task._images[1_400:]
    train, validation, test = ({tuple(x.flatten().tolist()) for x in part} for part in parts)
    assert calibration <= train
    assert not validation & test
    assert not train & validation
