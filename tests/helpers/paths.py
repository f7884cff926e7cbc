"""Folders of the repository that tests read from."""

from pathlib import Path

HELPERS = Path(__file__).parent
TESTS = HELPERS.parent
GOLDEN = TESTS / "golden"
ROOT = TESTS.parent
EXPERIMENTS = ROOT / "experiments"
