"""The kernel of the benchmark's path ``fused``: in Triton's interpreter, and off by default."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is missing: pip install triton"
)


@needs_triton
def test_the_kernel_computes_what_the_plain_path_does():
    script, environment = Path(__file__).with_name("fused_product.py"), {"TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, str(script), "cpu"], env=os.environ | environment, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "7 rules as the plain path, torch.float64" in done.stdout
    assert "compiled, under autocast" in done.stdout


def test_triton_is_not_imported_unless_asked_for():
    code = (
        "import sys, torch, weightcast as wc, weightcast_lab.bench.run\n"
        "layer = wc.layers.PredictedLinear(\n"
        "    64, 9, dictionary=wc.dictionaries.DCT(), fraction=0.1, columns=2)\n"
        "layer(torch.randn(5, 64)).sum().backward()\n"
        "assert layer.product is None and 'triton' not in sys.modules\n"
        "assert 'weightcast_lab.bench.fused' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
