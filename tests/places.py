"""Where the tests find what they read."""

from pathlib import Path

ROOT = Path(__file__).parent.parent
SAMPLES = ROOT / "tests" / "samples"
EXAMPLES = ROOT / "examples"
