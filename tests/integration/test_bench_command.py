"""weightcast bench: the smoke preset end to end, and what its options refuse."""

import pytest

from weightcast.cli.main import main
from weightcast_lab.sweeps.rows import read_rows


def test_the_smoke_preset_measures_and_its_rows_are_printed_again(tmp_path, capsys):
    file = tmp_path / "bench.jsonl"
    command = ["bench", "--preset", "smoke", "--rounds", "2", "--rows", str(file)]
    assert main(command) == 0
    shown = capsys.readouterr()
    rows = {row["config"].get("path", row["config"]["kind"]): row for row in read_rows(file)}
    assert list(rows) == ["auto", "factored", "materialised", "narrow"]
    auto, metrics = rows["auto"], rows["auto"]["metrics"]
    assert auto["counts"]["learned"] == 39 * 500 + 500
    assert metrics["optimiser_bytes"] < 0.07 * metrics["dense_optimiser_bytes"]
    assert metrics["checkpoint_bytes"] < 0.07 * metrics["dense_checkpoint_bytes"]
    assert metrics["n"] == 2
    assert metrics["ratio_min"] <= metrics["ratio_median"] <= metrics["ratio_max"]
    assert rows["narrow"]["counts"]["learned"] == pytest.approx(20_000, rel=0.1)
    assert rows["narrow"]["metrics"]["rival_ratio_median"] > 0
    assert "784-500, batch 32" in shown.out
    assert "The cost model: " in shown.out
    assert "1/2 784-500, batch 32: se, 5 %, 10 columns" in shown.err
    before = file.read_bytes()
    assert main([*command, "--markdown"]) == 0
    again = capsys.readouterr()
    assert file.read_bytes() == before
    assert "1/2" not in again.err
    assert "| se | 5 % | 10 |" in again.out
    page = tmp_path / "page"
    assert main(["report", str(file), "--output", str(page), "--images", "false"]) == 0
    assert "784-500, batch 32, se, 5 %, 10 columns, auto" in (page / "index.html").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--preset", "smok"], "there is no preset 'smok'; did you mean 'smoke'?"),
        (["--layers", "mpl"], "there is no layer 'mpl'; did you mean 'mlp'?"),
        (["--columns", "ten"], "--columns is 'ten': expected int"),
        (["--fractions", "5"], "fraction is 5.0"),
        (["--peers", "narow"], "there is no peer 'narow'; did you mean 'narrow'?"),
        (["--device", "tpu"], "device is 'tpu': take 'auto', 'cpu' or 'cuda'"),
        (["--rounds", "0"], "rounds is 0"),
        (
            ["--layers", "64-32", "--dictionaries", "se", "--peers", "none"],
            "there is nothing to measure",
        ),
        (["--layer", "mlp"], "did you mean '--layers'?"),
    ],
)
def test_a_bad_option_is_one_line(options, message, capsys):
    assert main(["bench", *options]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert message in shown.err.splitlines()[-1]
