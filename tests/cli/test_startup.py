"""What a picture needs is imported, and nothing heavy besides."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HEAVY = (
    *("torch._dynamo", "torch._inductor", "triton", "sympy", "torch.distributed.tensor"),
    *("transformers", "sklearn", "scipy", "matplotlib", "pandas"),
)


def test_a_picture_imports_no_compiler_and_no_library_of_models(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from scalekv.cli.main import main\n"
        f"sys.argv = ['scalekv', 'generate', 'a red apple', '--out', {str(tmp_path / 'out')!r}]\n"
        "try:\n    main()\nexcept SystemExit as left:\n    assert not left.code, left.code\n"
        f"print(sorted(set({HEAVY!r}) & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
    assert list((tmp_path / "out").glob("*.png"))
