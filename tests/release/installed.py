"""What an installed weightcast must do: run in an environment of its own, from an empty folder.

python installed.py [EXTRA]     # demo: the demo runs; all: and nothing that doctor knows is missing
"""

import json
import subprocess
import sys
from pathlib import Path

import torch
from torch import nn

import weightcast as wc


def command(*arguments: str) -> str:
    """What ``weightcast ...`` prints; its own words stand on stderr if it fails."""
    program = Path(sys.executable).parent / "weightcast"
    done = subprocess.run([program, *arguments], stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


def walk() -> None:
    """Convert, train a step, save, load, merge, compress."""
    torch.manual_seed(0)
    x, y = torch.randn(40, 64), torch.randint(10, (40,))
    dense = nn.Sequential(nn.Linear(64, 50), nn.ReLU(), nn.Linear(50, 10))
    plan = {"0": wc.Rule(wc.dictionaries.Kernel(), 0.25, columns=5, grid=(8, 8)), "*": None}
    model = wc.convert(dense, plan)
    before = model[0].V.detach().clone()
    optimiser = torch.optim.AdamW(wc.parameter_groups(model, learning_rate=1e-2))
    nn.functional.cross_entropy(model(x), y).backward()
    optimiser.step()
    assert not torch.equal(model[0].V, before)
    wc.save(model, "model")
    loaded = wc.load("model", dense)
    assert torch.equal(loaded(x), model(x))
    merged = wc.merge(loaded)
    assert type(merged[0]) is nn.Linear
    torch.testing.assert_close(merged(x), model(x), atol=1e-5, rtol=1e-4)
    small = wc.compress(dense, {"0": wc.Rule(wc.dictionaries.DCT(), 0.5)}, x, progress=False)
    assert wc.compression_report(dense, small, x).rows[-1].output_error < 0.5


def commands(extra: str) -> None:
    """The command's help, its report on the installation and, where it can run, a short demo."""
    assert "convert" in command("--help")
    report = json.loads(command("doctor", "model", "--json"))
    assert report["ok"], report
    states = {check["name"]: check["state"] for check in report["checks"]}
    extras = {name: state for name, state in states.items() if name.startswith("extra ")}
    assert extras, "doctor knows no extra of this package"
    assert extra != "all" or set(extras.values()) == {"ok"}, extras
    if extra:
        command("demo", "--seeds", "1", "--epochs", "1", "--output", "demo")
        assert Path("demo/index.html").stat().st_size > 1e5


if __name__ == "__main__":
    assert Path(wc.__file__).is_relative_to(sys.prefix), wc.__file__
    walk()
    commands("".join(sys.argv[1:]).strip("-"))
    print(f"python {sys.version.split()[0]}, torch {torch.__version__}: all works")
